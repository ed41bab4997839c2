"""What docs/scaling.md says of a billion tokens, against the simulation and against arithmetic."""

import subprocess
import sys
from pathlib import Path

from benchmarks.billion import LENGTH, SEQUENCES, of_shard, shape, table

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
#: Of the model: blocks, dimensions, weights of a block.
BLOCKS, WIDTH = 80, 8192
BLOCK = WIDTH * (2 * WIDTH + 2 * 1024 + 3 * 28672) + 2 * WIDTH
#: Operations of a token.
OPERATIONS = BLOCKS * (2 * BLOCK + 4 * WIDTH * LENGTH)


def test_the_documents_table_is_what_the_simulation_makes():
    assert table() in DOC


def test_a_shard_costs_what_is_worked_out_by_hand():
    assert shape().block == BLOCK
    found = of_shard(512, "covariances")
    assert found.operations == 512 * LENGTH * OPERATIONS
    assert found.read == BLOCKS * BLOCK * 2
    assert found.disk == BLOCKS * WIDTH**2 * 8
    assert found.memory > 2 * 512 * LENGTH * WIDTH * 2 + 2 * found.disk


def test_the_documents_steps_are_worked_out_by_hand():
    shards, weights = -(-SEQUENCES // 512), BLOCKS * BLOCK * 2
    tokens = 1e9
    assert abs(SEQUENCES * LENGTH - tokens) < LENGTH
    for said in (
        f"{BLOCK / 1e6:.0f} million numbers: {BLOCK * 2 / 1e9:.2f} GB a block",
        f"a block, {weights / 1e9:.0f} GB in all",
        f"takes {OPERATIONS / 1e9:.0f} GFLOP a token",
        f"take {OPERATIONS * tokens / 64 / 0.96e12 / 86400:.1f} days",
        f"with 64 GPUs, {OPERATIONS * tokens / 64 / 4e14 / 60:.0f} minutes",
        f"would take {WIDTH * 2 * BLOCKS * tokens / 1e15:.2f} PB",
        f"{WIDTH * 2 * tokens / 1e12:.1f} TB",
        f"8,192 dimensions {8 * BLOCKS * WIDTH**2 / 1e9:.1f} GB",
        f"by {2 * 2 * WIDTH / 1e3:.1f} kB of hidden states a token: "
        f"{512 * LENGTH * 4 * WIDTH / 1e9:.1f} GB for 512",
        f"1,024 would need {1024 * LENGTH * 4 * WIDTH / 1e9:.0f} GB",
        f"there are {shards} shards, which read {shards * weights / 1e12:.0f} TB",
        f"At 20 GB/s that takes {shards * weights / 20e9 / 60:.0f} minutes",
        f"read in {weights / 5e9:.0f} s a shard",
        f"of {shards} shards are {shards * 8 * BLOCKS * WIDTH**2 / 1e12:.0f} TB",
        f"{2 * WIDTH**2 * BLOCKS / OPERATIONS:.0%} more",
        f"256 sequences without GPU: {256 * LENGTH * OPERATIONS / 0.96e12 / 3600:.0f} hours",
    ):
        assert said in " ".join(DOC.split()), said


def test_the_plan_says_what_the_document_quotes():
    asked = ["--configfile", "benchmarks/billion.yaml", "--replace-workflow-config"]
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "plan", "--quiet", "all", *asked],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    said = [line for line in done.stdout.splitlines() if " jobs " in line]
    assert len(said) == 2
    assert "```\n" + "\n".join(said) + "\n```" in DOC
