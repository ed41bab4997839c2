"""Distributions of the stages of an MLP in every layer."""

import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.panels import stage_images
from microtome.figures.style import save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job


def draw(histograms: xr.Dataset, *, limits: tuple[float, float]) -> Figure:
    """Draw one image per stage of `activation_profile`; source: project 42, part 4.

    Args:
        histograms: the statistic.
        limits: the densities at the ends of the colour scale.
    """
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    stage_images(figure, histograms, rows="layer", limits=limits, ylabel="Layer")
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        figure = draw(read_dataset(snakemake.input.activation_profile), **snakemake.params.options)
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
