"""Laminar profile of RSA between Q, K and V."""

import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.panels import laminar_profile
from microtome.figures.style import save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job


def draw(rsa: xr.Dataset) -> Figure:
    """Draw the scores of `rsa` over the layers; source: project 38, part 4."""
    figure = Figure(figsize=(10, 3), layout="tight")
    series = {pair.upper(): rsa["r"].sel(pair=pair).values for pair in rsa["pair"].values}
    laminar_profile(figure.subplots(), rsa["layer"].values, series, "RSA scores")
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        figure = draw(read_dataset(snakemake.input.rsa), **snakemake.params.options)
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
