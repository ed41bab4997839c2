"""Laminar profile of category selectivity at Q, K and V."""

import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.panels import laminar_profile
from microtome.figures.style import save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job


def draw(selectivity: xr.Dataset, *, scale: str) -> Figure:
    """Draw differences and t over the layers; source: project 38, parts 6 and 7.

    Args:
        selectivity: the statistic.
        scale: `cosine`, or `fisher_z` of the cosines.
    """
    figure = Figure(figsize=(12, 3), layout="tight")
    left, right = figure.subplots(1, 2)
    chosen = selectivity.sel(scale=scale)
    layers = chosen["layer"].values
    for axes, variable, ylabel, title in (
        (left, "difference", "Differences", "A) Within - Across"),
        (right, "t", "Selectivity (t-stat)", "B) T values"),
    ):
        sites = chosen["site"].values
        series = {site.upper(): chosen[variable].sel(site=site).values for site in sites}
        laminar_profile(axes, layers, series, ylabel)
        axes.set(title=title + (" of Fisher-z" if scale == "fisher_z" else ""))
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        figure = draw(read_dataset(snakemake.input.selectivity), **snakemake.params.options)
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
