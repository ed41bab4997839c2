"""What the config's `store` saves on disk, and what it takes: a real model reads a real text."""

from dataclasses import replace

from benchmarks.row import Bar, Pair, Row, Same, Way
from benchmarks.scratch import REAL, TABLES
from benchmarks.ways import Task

N_TEXTS, N_TOKENS, _ = TABLES[REAL]["manual-16"]
PLAIN = Task(
    REAL,
    "manual-16",
    N_TEXTS,
    N_TOKENS,
    batch=8,
    sites=("attn_out", "resid_post", "post"),
    layers=tuple(range(30)),
)
#: The ways, by what `store` says.
STORES = {
    "float32": ("float32", "none"),
    "float32, zstd": ("float32", "zstd"),
    "bfloat16": ("bfloat16", "none"),
    "bfloat16, zstd": ("bfloat16", "zstd"),
}


def per_token(way: str) -> Bar:
    """The bytes of a token in all layers, in thousands."""
    return Bar(f"kB per token: {way}", lambda p: p[way]["bytes"] / (N_TEXTS * N_TOKENS) / 1000)


def ratio(key: str, way: str, plain: str, pair: Pair) -> float:
    """A measurement of one way as a share of another's."""
    return pair[way][key] / pair[plain][key]


ROWS = (
    Row(
        name="store",
        title="SmolLM2-135M reads a real text, stored in four ways",
        text=f"`attn_out`, `resid_post` and `post` of all 30 layers for {N_TEXTS} sequences of "
        f"{N_TOKENS} tokens: the manual that comes with Python (`pydoc_data`), with the model's "
        "real weights, since how far activations can be compressed depends on them. The ways "
        "differ in the config's `store` alone.",
        ways={name: Way("sweep", replace(PLAIN, store=store)) for name, store in STORES.items()},
        bars=(
            *map(per_token, STORES),
            Bar(
                "bytes: float32, zstd ÷ float32",
                lambda p: ratio("bytes", "float32, zstd", "float32", p),
                0.9,
            ),
            Bar(
                "bytes: bfloat16, zstd ÷ bfloat16",
                lambda p: ratio("bytes", "bfloat16, zstd", "bfloat16", p),
                0.8,
            ),
            Bar(
                "bytes: bfloat16, zstd ÷ float32",
                lambda p: ratio("bytes", "bfloat16, zstd", "float32", p),
                0.4,
            ),
            Bar(
                "processor time: float32, zstd ÷ float32",
                lambda p: ratio("cpu", "float32, zstd", "float32", p),
            ),
            Bar(
                "processor time: bfloat16, zstd ÷ bfloat16",
                lambda p: ratio("cpu", "bfloat16, zstd", "bfloat16", p),
            ),
        ),
        same=(Same("float32", "float32, zstd"), Same("bfloat16", "bfloat16, zstd")),
    ),
)
