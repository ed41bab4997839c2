"""Distributions of the MLP's weights in every layer."""

import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.panels import histogram_images
from microtome.figures.style import save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job

#: What the matrices do, where their names do not say so.
TITLES = {"W1": "W1 (expansion)", "W2": "W2 (contraction)"}


def draw(histograms: xr.Dataset, *, limits: tuple[float, float]) -> Figure:
    """Draw one image per matrix of `weight_histograms`; source: project 42, part 1.

    Args:
        histograms: the statistic.
        limits: the densities at the ends of the colour scale.
    """
    titles = [TITLES.get(matrix, matrix) for matrix in histograms["matrix"].values]
    figure = Figure(figsize=(5 * len(titles), 3.5), layout="constrained")
    histogram_images(
        figure,
        titles,
        histograms,
        rows="layer",
        panels="matrix",
        limits=limits,
        xlabel="Weight value",
        ylabel="Layer",
    )
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        figure = draw(read_dataset(snakemake.input.weight_histograms), **snakemake.params.options)
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
