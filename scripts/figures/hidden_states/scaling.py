"""What scaling each block's output does to the prediction of a target token."""

import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.panels import sparse_ticks
from microtome.figures.style import FILLS, ink, save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job


def draw(scaling: xr.Dataset) -> Figure:
    """Draw `scaling` over the blocks; source: LLM breakdown 4/6, demo 3."""
    figure = Figure(figsize=(9, 3), layout="tight")
    axes = figure.subplots()
    layers, clean = scaling["layer"].values, scaling["clean"].item()
    axes.plot(
        layers,
        scaling["log_probability"].values,
        "h",
        color=ink(),
        markersize=14,
        markerfacecolor=FILLS[0],
    )
    axes.axhline(clean, linestyle="--", color=(0.7, 0.7, 0.7), zorder=-3)
    # Beside the line's end, where no mark can lie.
    axes.annotate(
        f"Clean: {clean:.2f}",
        (1, clean),
        (4, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
    )
    axes.margins(x=0.03, y=0.12)
    sparse_ticks(axes.xaxis, [f"L{layer}" for layer in layers], most=16)
    axes.set(xlabel="Transformer block", ylabel="Log softmax")
    axes.set(title="Impact of global hidden-state scaling on log-softmax")
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        figure = draw(read_dataset(snakemake.input.scaling), **snakemake.params.options)
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
