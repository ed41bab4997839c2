"""The squared product of an MLP's first and last weight matrix, at one layer."""

import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.panels import colour_bar_ends
from microtome.figures.style import save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job


def draw(product: xr.Dataset, *, limits: tuple[float, float]) -> Figure:
    """Draw `weight_product` as an image; source: project 42, part 1.

    Args:
        product: the statistic.
        limits: the squares at the ends of the colour scale.
    """
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    squared = product["squared"].values
    image = axes.imshow(squared, vmin=limits[0], vmax=limits[1], cmap="viridis")
    extend = colour_bar_ends(squared, limits)
    figure.colorbar(image, ax=axes, extend=extend, label="Squared product")
    first, layer = product.attrs["first"], product.attrs["layer"]
    axes.set(xlabel="Output dimension", ylabel="Input dimension")
    axes.set(title=f"|{first} · W2|², layer {layer}")
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        figure = draw(read_dataset(snakemake.input.weight_product), **snakemake.params.options)
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
