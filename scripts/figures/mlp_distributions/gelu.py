"""What GELU does to values around zero."""

import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.panels import colour_bar_ends
from microtome.figures.style import ink, save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job

#: The squared difference at the end of the colour scale.
LARGEST = 10


def draw(sample: xr.Dataset) -> Figure:
    """Draw the values before and after; source: project 42, the demo of GELU."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
    raw, difference = sample["raw"].values, sample["squared_difference"].values
    axes.plot(raw, raw, color=ink())
    points = axes.scatter(
        raw,
        sample["gelu"].values,
        s=60,
        c=difference,
        marker="h",
        edgecolors=ink(),
        alpha=0.7,
        cmap="magma",
        vmin=0,
        vmax=LARGEST,
    )
    extend = colour_bar_ends(difference, (0, LARGEST))
    figure.colorbar(points, ax=axes, pad=0.01, extend=extend, label="Squared difference")
    axes.grid(linestyle="--", linewidth=0.4)
    axes.set_axisbelow(True)
    axes.set(
        xlabel='"Raw" activations',
        ylabel="Post-GELU activations",
        title="Impact of GELU nonlinear activation",
    )
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        figure = draw(read_dataset(snakemake.input.gelu), **snakemake.params.options)
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
