"""What Fisher's z does to values between -1 and 1."""

import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.panels import histogram_line
from microtome.figures.style import FILLS, ink, save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job

LABELS = {"cosine": "Cos. similarities", "fisher_z": "Fisher-z"}


def draw(sample: xr.Dataset) -> Figure:
    """Draw the transformation and both distributions; source: project 38, part 7."""
    figure = Figure(figsize=(10, 4), layout="tight")
    left, right = figure.subplots(1, 2)
    left.plot(
        sample["r"].values,
        sample["z"].values,
        "o",
        color=ink(),
        markerfacecolor=(*FILLS[1], 0.3),
        rasterized=True,
    )
    left.axline((-1, -1), slope=1, linestyle="--", color=ink())
    left.grid(linestyle="--", linewidth=0.3)
    left.set(
        xlabel="Cosine similarity",
        ylabel="Fisher-z transform",
        title="A) Impact of transformation",
    )
    for scale, label in LABELS.items():
        chosen = sample.sel(scale=scale)
        edges, counts = chosen["left_edge"].values, chosen["count"].values
        histogram_line(right, edges, counts, linewidth=2, label=label)
    right.set(xlabel="Similarity or Fisher-z value", ylabel="Count", title="B) Distributions")
    right.legend()
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        figure = draw(read_dataset(snakemake.input.fisher_z), **snakemake.params.options)
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
