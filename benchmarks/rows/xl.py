"""Q, K and V of GPT-2 XL's shape: the sweep beside its peers, few texts and a large model."""

from dataclasses import replace

from benchmarks.row import Bar, Pair, Row, Same, Way
from benchmarks.ways import Task

PEERS = ("TransformerLens", "nnsight", "hooks")
#: TransformerLens computes Q, K, V and attention in its own way (eager attention).
ROUNDING = 1e-5


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


def of_least(measure: str, label: str, at_most: float | None = None) -> Bar:
    """A bar on the sweep's share of the least that any peer took, and so of every peer's."""

    def value(pair: Pair) -> float:
        return pair["sweep"][measure] / min(pair[peer][measure] for peer in PEERS)

    return Bar(f"{label}: sweep ÷ the least of the peers", value, at_most)


PREFIXES = """\
The linear layers, nearly all of the work, compute 38 rows for the sweep and 170 for the peers
(`microtome/prefixes.py`); the first of each shape computes both and finds the bits equal."""
DISTINCT = """\
All ways spend their time on the same products. 48 blocks of 30.7 million weights and 170 tokens are
0.5 TFLOP; on the day of the measurement the machine multiplied matrices of this size at 34 GFLOP/s
on one core and 59 on two, which makes 8.5 s. Of the sweep's time, 9.3 s go into running blocks, 0.1
s each into building the model without weights, mapping them, and checksums; the rest waits for the
thread that writes and flushes 158 MB, which the peers do not do. A quarter less than the peers'
time would be less than the products take."""

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
        bars=(
            of_least("resident", "peak resident", 0.12),
            of_least("anonymous", "peak unreclaimable"),
            of_least("wall", "whole process", 1.0),
            of_least("work", "after imports", 0.75),
        ),
        same=SAME,
        remark=PREFIXES,
    ),
    Row(
        name="xl-distinct",
        title="GPT-2 XL's shape, prompts that share nothing",
        text="The same for 34 times 5 random tokens.",
        ways=ways(replace(ALL_LAYERS, table="distinct")),
        bars=(
            of_least("resident", "peak resident"),
            of_least("anonymous", "peak unreclaimable"),
            of_least("wall", "whole process"),
            of_least("work", "after imports"),
        ),
        same=SAME,
        remark=DISTINCT,
    ),
    Row(
        name="xl-batches",
        title="GPT-2 XL's shape, eight batches",
        text="The same sentence with 272 words, in 8 batches of 34 prompts.",
        ways=ways(replace(ALL_LAYERS, table="batches", n_texts=8 * 34)),
        bars=(
            of_least("resident", "peak resident"),
            of_least("anonymous", "peak unreclaimable"),
            of_least("wall", "whole process"),
            of_least("work", "after imports", 0.65),
        ),
        same=SAME,
        remark="Eight times the products of one batch: 4.2 TFLOP, at 59 GFLOP/s 70 s, more than "
        "0.65 of any peer's time. The sweep also writes and flushes 1.3 GB on the same two cores.",
    ),
    Row(
        name="xl-bfloat16",
        title="GPT-2 XL's shape, bfloat16 checkpoint",
        text="The 34 prompts again, from a checkpoint in bfloat16, as nearly all recent "
        "models ship, computed in float32.",
        ways=ways(BFLOAT16),
        bars=(
            of_least("resident", "peak resident"),
            of_least("anonymous", "peak unreclaimable", 0.15),
            of_least("wall", "whole process"),
            of_least("work", "after imports", 0.6),
        ),
        same=SAME,
        remark="The products are the same as above, and most of the time here too. What the sweep "
        "saves is the peers' conversion of all weights into new memory, 2 to 4 s; it converts each "
        "block's into the same memory.",
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
        bars=(
            of_least("resident", "peak resident", 0.55),
            of_least("anonymous", "peak unreclaimable"),
            of_least("wall", "whole process", 1.0),
            of_least("work", "after imports", 0.4),
        ),
        same=SAME,
        remark="Every way stops in layer 6, so that all compute six blocks and a quarter of the "
        "seventh: 65 GFLOP, at 59 GFLOP/s 1.1 s, and more than 0.4 of the fastest peer's time.",
    ),
)
