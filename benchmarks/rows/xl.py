"""Q, K and V of GPT-2 XL's shape: the sweep beside its peers, few texts and a large model."""

from dataclasses import replace
from functools import partial

from benchmarks.row import Bar, Pair, Row, Same, Way
from benchmarks.ways import Task

PEERS = ("TransformerLens", "nnsight", "hooks")
#: TransformerLens computes Q, K, V and attention in its own way (eager attention).
ROUNDING = 1e-5
#: What is compared with the peers'.
MEASURES = {
    "resident": "peak resident",
    "anonymous": "peak unreclaimable",
    "wall": "whole process",
    "work": "after imports",
}


def ways(task: Task) -> dict[str, Way]:
    """The sweep and its peers."""
    return {
        "sweep": Way("sweep", task),
        "TransformerLens": Way("transformer_lens", task, "transformer-lens"),
        "nnsight": Way("nnsight", task, "nnsight"),
        "hooks": Way("hooks", task),
    }


SAME = (
    Same("sweep", "hooks"),
    Same("sweep", "nnsight"),
    Same("sweep", "TransformerLens", within=ROUNDING),
)


def of_least(**at_most: float) -> tuple[Bar, ...]:
    """The sweep's share of the least that any peer took, and so of every peer's, with bars.

    Args:
        at_most: the bars, by measure.
    """

    def share(pair: Pair, measure: str) -> float:
        return pair["sweep"][measure] / min(pair[peer][measure] for peer in PEERS)

    return tuple(
        Bar(
            f"{label}: sweep ÷ the least of the peers",
            partial(share, measure=measure),
            at_most.get(measure),
        )
        for measure, label in MEASURES.items()
    )


PREFIXES = """\
The linear layers, which are nearly all of the work, multiply 38 rows for the sweep and 170 for the
peers (`microtome/sweeps/prefixes.py`); in the first block both, to find that the bits are the same.
A block's products take 63 ms for 38 rows and 176 for 170 here: its 123 MB of weights are read
whatever the number of rows. Of the sweep's time, 4.9 s go into running blocks, the writer
beside them, 0.1 s each into building the model without weights and mapping them; the rest waits
until the last of 158 MB is flushed, which the peers do not do."""
LAYER_6 = """\
Every way stops in layer 6. Of the sweep's time, on a quiet machine 0.95 s, six blocks and a quarter
of the seventh take 0.65: 0.2 of that compares 38 rows with 170 in the first block, which pays where
more blocks follow, and 0.4 are products of 38 rows. Building the model of 48 blocks without weights
takes 0.1 s, waiting for the flush 0.06, asking the first block what it returns, reading the token
table and mapping weights 0.03 each. Without the comparison it would be 0.4 of a peer's time; it is
what makes sure of the bits."""
DISTINCT = """\
Where texts share nothing, all ways spend their time on the same products. 48 blocks of 30.7 million
weights and 170 tokens are 0.5 TFLOP; the machine multiplies matrices of this size at 34 GFLOP/s on
one core and 59 on two, which makes 8.5 s. The sweep also writes and flushes 158 MB."""

ALL_LAYERS = Task(
    "float32", "prompts", 34, 5, batch=34, sites=("q", "k", "v"), layers=tuple(range(48))
)
BFLOAT16 = replace(ALL_LAYERS, model="bfloat16")

ROWS = (
    Row(
        name="xl-float32",
        title="GPT-2 XL's shape, float32 checkpoint",
        text="Q, K and V of all 48 layers for 34 prompts of 5 tokens, *The next word is* and a "
        "word, as the study of categories has them: 38 of 170 tokens differ in themselves or in "
        "what precedes them.",
        ways=ways(ALL_LAYERS),
        bars=of_least(resident=0.12, wall=1.0, work=0.75),
        same=SAME,
        remark=PREFIXES,
    ),
    Row(
        name="xl-distinct",
        title="GPT-2 XL's shape, prompts that share nothing",
        text="The same for 34 times 5 random tokens.",
        ways=ways(replace(ALL_LAYERS, table="distinct")),
        bars=of_least(),
        same=SAME,
        remark=DISTINCT,
    ),
    Row(
        name="xl-batches",
        title="GPT-2 XL's shape, eight batches",
        text="The same sentence with 272 words, in 8 batches of 34 prompts.",
        ways=ways(replace(ALL_LAYERS, table="batches", n_texts=8 * 34)),
        bars=of_least(work=0.65),
        same=SAME,
        remark="Eight times the work of one batch for all; the sweep reads the weights from disk "
        "once for all batches, and writes and flushes 1.3 GB on the same two cores.",
    ),
    Row(
        name="xl-bfloat16",
        title="GPT-2 XL's shape, bfloat16 checkpoint",
        text="The 34 prompts again, from a checkpoint in bfloat16, as nearly all recent "
        "models ship, computed in float32.",
        ways=ways(BFLOAT16),
        bars=of_least(anonymous=0.15, work=0.6),
        same=SAME,
        remark="The sweep saves the same products as above and the peers' conversion of all "
        "weights into new memory, 2 to 4 s; it converts each block's into the same memory.",
    ),
    Row(
        name="xl-cap",
        title="The same with 2,000 MB of memory",
        text="The bfloat16 checkpoint again, each process in a cgroup of 2,000 MB without swap. "
        "Pages of files count, and the checkpoint is read from disk.",
        ways=ways(BFLOAT16),
        bars=(),
        cap=2_000_000_000,
    ),
    Row(
        name="layer-6",
        title="GPT-2 XL's shape, layer 6 alone",
        text="Q, K and V of layer 6, float32 checkpoint, 34 prompts of 5 tokens. Every way stops "
        "there.",
        ways=ways(replace(ALL_LAYERS, layers=(6,))),
        bars=of_least(resident=0.55, wall=1.0, work=0.4),
        same=SAME,
        remark=LAYER_6,
    ),
)
