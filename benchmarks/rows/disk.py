"""A corpus' hidden states to disk: the sweep beside what else there is."""

from dataclasses import replace

from benchmarks.row import Bar, Row, Same, Way
from benchmarks.scratch import REAL, TABLES
from benchmarks.to_disk import Task

N_TEXTS, N_TOKENS, _ = TABLES[REAL]["manual-128"]
ONE_LAYER = Task(
    *(REAL, "manual-128", N_TEXTS, N_TOKENS),
    batch=8,
    sites=("resid_post",),
    layers=(9,),
)
ALL_LAYERS = replace(ONE_LAYER, layers=tuple(range(30)))


def beside(measure: str, peer: str) -> Bar:
    """The sweep's share of what a peer takes."""
    names = {"work": "after imports", "resident": "peak resident"}
    return Bar(
        f"{names[measure]}: sweep ÷ {peer}", lambda p: p["sweep"][measure] / p[peer][measure]
    )


ROWS = (
    Row(
        name="all-layers",
        title="SmolLM2-135M's hidden states of all layers, to disk",
        text=f"`resid_post` of 30 layers for {N_TEXTS} sequences of {N_TOKENS} tokens of "
        "the manual that comes with Python, in batches of 8, to a file per layer, flushed to disk. "
        "*Hooks* is a plain loop over batches; at each block a hook writes to an HDF5 file. "
        "*Accelerate* is the same loop with `device_map` and a `max_memory` that nothing fits in: "
        "all weights are on disk, and each batch reads them again.",
        ways={
            "sweep": Way("sweep", ALL_LAYERS),
            "hooks": Way("hooks_to_h5py", ALL_LAYERS),
            "accelerate": Way("accelerate_to_h5py", ALL_LAYERS),
        },
        bars=(
            beside("work", "hooks"),
            beside("work", "accelerate"),
            beside("resident", "hooks"),
            beside("resident", "accelerate"),
        ),
        same=(Same("sweep", "hooks"), Same("sweep", "accelerate")),
    ),
    Row(
        name="one-layer",
        title="SmolLM2-135M's hidden states of layer 9, to disk",
        text="The same of layer 9 alone. *SAELens* is its `CacheActivationsRunner`, which writes "
        "one site of one layer to a data set of Arrow files. All ways stop behind the layer.",
        ways={
            "sweep": Way("sweep", ONE_LAYER),
            "hooks": Way("hooks_to_h5py", ONE_LAYER),
            "SAELens": Way("saelens", ONE_LAYER, "saelens"),
        },
        bars=(
            beside("work", "hooks"),
            beside("work", "SAELens"),
            beside("resident", "hooks"),
            beside("resident", "SAELens"),
        ),
        same=(Same("sweep", "hooks"), Same("sweep", "SAELens")),
    ),
)
