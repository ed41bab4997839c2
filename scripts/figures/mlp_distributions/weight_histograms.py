"""Distributions of the MLP's weights, at one layer."""

import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.style import save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job


def draw(histograms: xr.Dataset, *, layer: int) -> Figure:
    """Draw one line per matrix of `weight_histograms`; source: project 42, part 1.

    Args:
        histograms: the statistic.
        layer: the layer.
    """
    figure = Figure(figsize=(8, 3), layout="tight")
    axes = figure.subplots()
    limit = histograms.attrs["limit"]
    for matrix in histograms["matrix"].values:
        density = histograms["density"].sel(layer=layer, matrix=matrix).values
        label = f"$\\mathbf{{W_{matrix[1]}}}${matrix[2:]}"
        axes.plot(histograms["value"].values, density, label=label)
    axes.set(xlabel="Weight value", ylabel="Density", xlim=(-limit, limit), ylim=(0, None))
    axes.legend()
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        figure = draw(read_dataset(snakemake.input.weight_histograms), **snakemake.params.options)
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
