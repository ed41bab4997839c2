"""Laminar profile of the correlations between Q, K and V."""

import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.panels import laminar_profile
from microtome.figures.style import save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job


def draw(correlations: xr.Dataset) -> Figure:
    """Draw `qkv_correlations` over the layers; source: project 38, part 2."""
    figure = Figure(figsize=(10, 3), layout="tight")
    series = {
        pair.upper(): correlations["r"].sel(pair=pair).values
        for pair in correlations["pair"].values
    }
    layers = correlations["layer"].values
    laminar_profile(figure.subplots(), layers, series, "Correlation coefficient")
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        figure = draw(read_dataset(snakemake.input.qkv_correlations), **snakemake.params.options)
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
