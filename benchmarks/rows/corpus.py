"""Longer texts: tokenised, and through GPT-2's shape; what is kept goes to disk or is counted."""

from dataclasses import replace

from benchmarks.row import Bar, Pair, Row, Same, Way
from benchmarks.rows.xl import ROUNDING
from benchmarks.tokenising import Task as Tokenising
from benchmarks.ways import PLACES, Task

MIB_PER_GB = 1e9 / 2**20

EVERYTHING = Task(
    "gpt2",
    "texts-64",
    64,
    128,
    batch=32,
    sites=tuple(PLACES),
    layers=tuple(range(12)),
)
LAST = replace(EVERYTHING, table="last-tokens", last=True)
TOKENS = Tokenising("gpt2", 128)
BINS = replace(EVERYTHING, sites=("ln2_out", "pre", "post", "mlp_out"), bins=True)


def with_texts(n: int) -> Task:
    """All sites of some number of texts."""
    return replace(EVERYTHING, table=f"texts-{n}", n_texts=n)


def written(pair: Pair) -> float:
    """The bytes on disk as a share of the values' own."""
    return pair["sweep"]["bytes"] / pair["write"]["bytes"]


ROWS = (
    Row(
        name="tokens",
        title="A corpus becomes tokens",
        text="Twelve million characters of Python source, a document a file, from JSONL to "
        "sequences of 128 tokens on disk by GPT-2's tokenizer. *Token table* is the workflow's own "
        "script, on all cores: of each token also its position, its sequence and its text. "
        "*Datasets* is `datasets.map(batched=True, num_proc=2)` with "
        "`return_overflowing_tokens`; of its time, the passes are `map` without `load_dataset`.",
        ways={
            "token table": Way("token_table", TOKENS),
            "datasets": Way("datasets_map", TOKENS, "datasets"),
        },
        bars=(
            Bar(
                "after imports: token table ÷ datasets",
                lambda p: p["token table"]["work"] / p["datasets"]["work"],
                1.0,
            ),
            Bar(
                "after imports: token table ÷ map alone",
                lambda p: p["token table"]["work"] / p["datasets"]["passes"],
            ),
        ),
        same=(Same("token table", "datasets"),),
    ),
    Row(
        name="all-sites",
        title="GPT-2's shape, everything to disk",
        text="All 12 sites of all 12 layers for 64 texts of 128 tokens, in batches of 32, to one "
        "file per layer; for the sweep's memory also 32 and 128 texts. *Bare* is the forward of "
        "the same batches without hooks and without the head; *write* writes as many bytes into "
        "as many files, flushed. The peers keep their arrays in memory and write nothing.",
        ways={
            "sweep": Way("sweep", EVERYTHING),
            "bare": Way("bare", EVERYTHING),
            "write": Way("write", EVERYTHING),
            "sweep, 32 texts": Way("sweep", with_texts(32)),
            "sweep, 128 texts": Way("sweep", with_texts(128)),
            "TransformerLens": Way("transformer_lens", EVERYTHING, "transformer-lens"),
            "nnsight": Way("nnsight", EVERYTHING, "nnsight"),
            "hooks": Way("hooks", EVERYTHING),
        },
        bars=(
            Bar("peak resident, GB", lambda p: p["sweep"]["resident"] / MIB_PER_GB, 1.5),
            Bar(
                "peak resident, 128 texts ÷ 32 texts",
                lambda p: p["sweep, 128 texts"]["resident"] / p["sweep, 32 texts"]["resident"],
                1.1,
            ),
            Bar(
                "after imports: sweep ÷ (bare + write)",
                lambda p: p["sweep"]["work"] / (p["bare"]["work"] + p["write"]["work"]),
                1.15,
            ),
            Bar("bytes on disk ÷ bytes of the values", written),
        ),
        same=(
            Same("sweep", "hooks"),
            Same("sweep", "nnsight"),
            Same("sweep", "TransformerLens", within=ROUNDING),
        ),
    ),
    Row(
        name="last-tokens",
        title="GPT-2's shape, each text's last token",
        text="The same texts and sites, of which the last token's rows alone are kept "
        "(`tokens: last`): a 128th of the values.",
        ways={
            "sweep": Way("sweep", LAST),
            "bare": Way("bare", LAST),
            "write": Way("write", LAST),
            "hooks": Way("hooks", LAST),
        },
        bars=(
            Bar("bytes on disk ÷ bytes of the values", written, 1.1),
            Bar(
                "after imports: sweep ÷ bare",
                lambda p: p["sweep"]["work"] / p["bare"]["work"],
                1.1,
            ),
        ),
        same=(Same("sweep", "hooks"),),
    ),
    Row(
        name="histograms",
        title="GPT-2's shape, histograms made in the sweep",
        text="The same texts, histograms of 200 bins of four sites (`ln2_out`, `pre`, `post`, "
        "`mlp_out`) in all layers (a streamed statistic); no activations are stored. *Hooks* "
        "keeps the activations in memory; its histograms, made after the clock has stopped, are "
        "there to be compared.",
        ways={
            "sweep": Way("histograms", BINS),
            "bare": Way("bare", BINS),
            "hooks": Way("hooks", BINS),
        },
        bars=(
            Bar(
                "after imports: sweep ÷ bare",
                lambda p: p["sweep"]["work"] / p["bare"]["work"],
                1.4,
            ),
        ),
        same=(Same("sweep", "hooks"),),
        remark="The 755 million values take numpy's `histogram` 18–20 ns each on one core and 11 "
        "on two: 8 s in which nothing else is computed.",
    ),
)
