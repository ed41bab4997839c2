"""What is asked of a cluster, against peaks that were measured or worked out by hand."""

import subprocess
import sys

import pytest
from workflows import Clone

from microtome.model.checkpoint import sizes
from microtome.model.fetch import manifest
from microtome.model.skeleton import skeleton
from microtome.store.datasets import write_dataset
from microtome.sweep import cost
from microtome.texts.stimuli import Stimulus
from microtome.texts.tokens import token_table

MIB = 1 << 20

SWEEP = """
import re, sys
from pathlib import Path
from microtome.store.layers import read_columns, write_layers_beside
from microtome.model.architectures import taps_of
from microtome.model.checkpoint import read_json
from microtome.sweep.batches import batched
from microtome.sweep.sweep import sweep
checkpoint, tokens, folder, sites, final = sys.argv[1:]
columns = read_columns(tokens)
batches = batched(columns, 32)
taps = taps_of(read_json(Path(checkpoint) / "config.json"))
asked = sites.split(), range(30), final.split()
sections = sweep(Path(checkpoint), batches, *asked, taps=taps)
paths = {layer: f"{folder}/layer-{layer:02d}.h5" for layer in range(30)}
write_layers_beside(sections, columns, paths | {None: f"{folder}/final.h5"}, {})
status = Path("/proc/self/status").read_text()  # getrusage's counts what this was forked from
print(re.search(r"VmHWM:\\s*(\\d+) kB", status)[1])
"""


def shape(config, dtype: str) -> cost.Model:
    """The shape of a model of a transformers config, as a manifest would give it."""
    tensors = {
        name: {"dtype": dtype, "shape": list(tensor.shape)}
        for name, tensor in skeleton(config).named_parameters()
    }
    return cost.model({"architecture": config.model_type, **sizes(config), "tensors": tensors})


def fits(peak: float, needed: cost.Cost) -> bool:
    """Never under, at most twice over, in MiB; a cluster's job holds two Snakemakes besides."""
    job = peak + cost.SNAKEMAKE / MIB
    return peak <= needed.memory / MIB <= 2 * peak and job <= needed.mem_mb() <= 2 * job


@pytest.mark.parametrize(
    ("sites", "final", "texts"),
    [
        ("q k v", "", ["The next word is pear"] * 34),
        pytest.param(
            "resid_pre ln2_out pre post mlp_out",
            "",
            ["one two three four " * 30] * 40,
            marks=pytest.mark.torture,
        ),
        ("resid_pre", "ln_final logits", ["A beetle, that is, an insect, as it were."] * 4),
    ],
)
def test_smollm2_as_measured(smollm2, tmp_path, sites, final, texts):
    tokens = tmp_path / "tokens.h5"
    write_dataset(token_table([Stimulus(text) for text in texts], smollm2), tokens)
    done = subprocess.run(
        [sys.executable, "-c", SWEEP, str(smollm2), str(tokens), str(tmp_path), sites, final],
        capture_output=True,
        text=True,
        check=True,
    )
    described = manifest(smollm2, name="", source="", revision="")
    wanted = sites.split(), range(30), final.split()
    needed = cost.sweep(
        cost.model(described), cost.lengths(tokens), *wanted, batch_size=32, threads=2
    )
    assert fits(int(done.stdout) / 1024, needed), (int(done.stdout) // 1024, needed)
    stored = sum(file.stat().st_size for file in tmp_path.glob("[lf]*.h5"))
    headers = 31 * 60_000
    assert needed.disk <= stored <= 1.05 * needed.disk + headers


@pytest.mark.parametrize(("dtype", "peak"), [("F32", 663), ("BF16", 690)])
def test_gpt2_xl_as_measured(dtype, peak):
    """The peaks of docs/benchmarks.md."""
    from transformers import GPT2Config

    config = GPT2Config(n_layer=48, n_embd=1600, n_head=25)
    needed = cost.sweep(
        shape(config, dtype), [5] * 34, ["q", "k", "v"], range(48), batch_size=34, threads=2
    )
    assert fits(peak, needed), needed
    assert needed.disk == 48 * 3 * 170 * 1600 * 4


def test_seven_billion_as_computed():
    """Llama-2-7B's shape in bfloat16, 64 texts of 128 tokens, 32 at a time."""
    from transformers import LlamaConfig

    model = shape(LlamaConfig(), "BF16")
    block = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    assert model.block == block
    converted, mapped = 2 * block * 4, block * 2
    hidden = 64 * 128 * 4096 * 4
    inside = 32 * 128 * (3 * 11008 + 4096) * 4
    sections = 2 * 32 * 128 * 3 * 4096 * 4
    peak = (converted + mapped + hidden + inside + sections) / MIB + 410
    needed = cost.sweep(model, [128] * 64, ["q", "k", "v"], range(32), batch_size=32, threads=8)
    assert fits(peak, needed), (peak, needed)
    shallow = cost.sweep(model, [128] * 64, ["q", "k", "v"], [0], batch_size=32, threads=8)
    assert shallow.memory == needed.memory
    assert shallow.disk * 32 == needed.disk
    half = cost.sweep(
        model, [128] * 64, ["q"], [0], batch_size=32, threads=8, dtype="bfloat16"
    ).memory
    assert half < shallow.memory - block * 4


def test_a_sweep_in_parts_costs_what_the_whole_does_and_what_is_handed_on():
    from transformers import GPT2Config

    model = shape(GPT2Config(n_layer=48, n_embd=1600, n_head=25), "F32")

    def needed(layers, final_sites=(), **part):
        settings = {"batch_size": 34, "threads": 2, "dtype": "bfloat16"} | part
        return cost.sweep(model, [5] * 34, ["q"] if layers else [], layers, final_sites, **settings)

    whole = needed(range(8), ["logits"])
    parts = [
        needed(range(8), stop=16),
        needed([], start=16, stop=32),
        needed([], ["logits"], start=32),
    ]
    handed_on = 170 * 1600 * 2
    assert [part.disk for part in parts[:2]] == [8 * 170 * 1600 * 4 + handed_on, handed_on]
    assert sum(part.disk for part in parts) == whole.disk + 2 * handed_on
    moved = 2 * handed_on * (1 / cost.WRITE + 1 / cost.READ)
    expected = whole.seconds + 2 * cost.START + moved
    assert sum(part.seconds for part in parts) == pytest.approx(expected)
    assert max(part.memory for part in parts) == whole.memory


def test_requests_grow_with_the_attempt():
    needed = cost.Cost(memory=1000 * MIB, disk=0, seconds=1200)
    first, second = needed.mem_mb(1), needed.mem_mb(2)
    assert first == 1300
    assert second == 2 * first
    assert (needed.runtime(1), needed.runtime(3)) == (60, 180)


def test_a_dry_run_says_what_it_cannot_know_yet(tmp_path, checkpoints):
    clone = Clone(tmp_path, checkpoints["gpt2"])
    clone.change("models", "tiny", "n_layers", to=4)
    scaling = {"checkpoint": True, "tokens": True, "factor": 0.8, "target": " a"}
    study = {"models": ["tiny"], "stimuli": "texts", "statistics": {"scaling": scaling}}
    figures = {"scaling": {"reads": ["scaling"]}}
    clone.change("studies", "hidden_states", to=study | {"figures": figures})
    for _ in range(2):  # without a manifest, then with it and without token tables
        done = clone.snakemake("--dry-run")
        assert done.returncode == 0, done.stderr
        assert (done.stdout + done.stderr).count(" mem_mb=<TBD>") == 3
        clone.run("results/models/tiny/manifest.json")


def test_the_plan_is_printed_before_anything_runs(tmp_path, checkpoints):
    clone = Clone(tmp_path, checkpoints["llama"])
    clone.change("models", "tiny", "n_layers", to=4)
    done = clone.snakemake("plan", "--quiet", "all")
    assert done.returncode == 0, done.stderr
    rows = {row[1]: row for row in map(str.split, done.stdout.splitlines()) if row[0] == "tiny"}
    assert rows.keys() == {"words", "texts"}
    # q of 4 heads, k and v of 2, each of 6 numbers, 4 bytes to a number.
    assert rows["words"][4:6] == [str((4 + 2 + 2) * 6 * 4), "B"]
    assert rows["texts"][2].startswith("≈")
    assert not clone.product("models").exists()
