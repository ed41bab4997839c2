"""The table of docs/scaling.md: a billion tokens on Llama 3's 70B shape, by the simulation.

`python -m benchmarks.billion` prints it.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from microtome.models.sources import Folder
from microtome.show.lines import duration, size
from microtome.sweeps import cost
from microtome.sweeps.schedule import schedule
from microtome.sweeps.shapes import of_config

#: A billion tokens, in sequences of so many.
LENGTH, SEQUENCES = 2048, 488_282
LAYERS = range(80)
#: What a statistic keeps of each layer of resid_post.
HELD: Mapping[str, Sequence[str]] = {"moments": (), "covariances": ("width", "width")}
#: Of a node without GPU, where 15 GFLOP/s were measured of each.
THREADS = 64
#: 64 nodes, each of which fails every 100 days on average; its link to the file system and the
#: whole file system, in GB/s.
CLUSTER = {"nodes": 64, "link": 2, "bandwidth": 20, "days_between_failures": 100}
#: In whose draw about as many nodes fail as is to be expected.
SEED = 1
#: A GPU, in place of the node's threads; not measured: 40% of what an H100 is said to do in
#: bfloat16.
GPU = {"teraflops": 400}
#: The weights are copied to each node before.
COPIED = {"own_disk": 5}
ROWS: Sequence[tuple[str, str, Mapping[str, float], str, int]] = (
    ("CPU", "shared", {}, "moments", 16),
    ("CPU", "shared", {}, "moments", 64),
    ("CPU", "shared", {}, "moments", 256),
    ("CPU", "shared", {}, "moments", 1024),
    ("GPU", "shared", GPU, "moments", 64),
    ("GPU", "shared", GPU, "moments", 512),
    ("GPU", "own disk", GPU | COPIED, "moments", 64),
    ("GPU", "own disk", GPU | COPIED, "moments", 512),
    ("GPU", "own disk", GPU | COPIED, "covariances", 512),
)
HEADINGS = (
    *("nodes", "weights on", "statistic", "`sequences_per_job`", "jobs", "memory", "whole"),
    *("starting", "reading", "computing", "writing", "lost", "idle", "of it merging"),
)


@cache
def shape() -> cost.Model:
    """The model's, from its config."""
    return of_config(Folder(Path(__file__).parent / "llama-70b"))


def of_shard(n_sequences: int, statistic: str) -> cost.Cost:
    """What a shard's job costs."""
    streamed = {
        "sites": ["resid_post"],
        "n_layers": len(LAYERS),
        "held": HELD[statistic],
        "options": {},
        "lens": False,
    }
    return cost.streams(
        shape(),
        [LENGTH] * n_sequences,
        {"sites": ["resid_post"], "layers": LAYERS, "final_sites": []},
        [streamed],
        rows=n_sequences * LENGTH,
        batch_tokens=4 * LENGTH,
        threads=THREADS,
        dtype="bfloat16",
    )


def row(kind: str, weights: str, plan: Mapping[str, float], statistic: str, n: int) -> list[str]:
    """A row's cells."""
    shards = [[of_shard(n, statistic)]] * (SEQUENCES // n)
    if rest := SEQUENCES % n:
        shards.append([of_shard(rest, statistic)])
    merged = sum(job.disk for [job] in shards)
    found = schedule(shards, merged, CLUSTER | plan, THREADS, SEED)
    shares = [f"{seconds / sum(found.spent.values()):.1%}" for seconds in found.spent.values()]
    [first] = shards[0]
    memory, whole = size(first.memory), duration(found.seconds)
    cells = [kind, weights, statistic, f"{n:,}", f"{len(shards):,}", memory, whole]
    return [*cells, *shares, duration(found.merging)]


def table() -> str:
    """The table, in Markdown."""
    aligned = ["---"] * 3 + ["---:"] * (len(HEADINGS) - 3)
    rows = [HEADINGS, aligned, *(row(*each) for each in ROWS)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows).replace("| ---", "|---") + "\n"


if __name__ == "__main__":
    print(table(), end="")
