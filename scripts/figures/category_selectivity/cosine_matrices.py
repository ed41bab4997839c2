"""Cosine similarity of all words at Q, K and V of one layer."""

from string import ascii_uppercase

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.panels import colour_bar_ends, panel_grid
from microtome.figures.style import save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job


def draw(similarities: xr.Dataset, *, layer: int, limits: tuple[float, float]) -> Figure:
    """Draw the matrices of `cosine_similarities` at a layer; source: project 38, part 3.

    Args:
        similarities: the statistic.
        layer: the layer.
        limits: the similarities at the ends of the colour scale.
    """
    category = similarities["category"].values
    borders = np.flatnonzero(category[1:] != category[:-1]) + 0.5
    sites = similarities["site"].values
    figure, panels = panel_grid(len(sites), (10, 4), layout="constrained")
    for axes, site, letter in zip(panels, sites, ascii_uppercase, strict=False):
        matrix = similarities["cosine"].sel(layer=layer, site=site).values
        image = axes.imshow(matrix, vmin=limits[0], vmax=limits[1], cmap="magma")
        for border in borders:
            axes.axhline(border, color="w", linestyle="--", linewidth=0.5)
            axes.axvline(border, color="w", linestyle="--", linewidth=0.5)
        axes.set(xticks=[], title=f"{letter}) {site.upper()} cosine similarities")
        axes.set(xlabel="Words", ylabel="Words")
        extend = colour_bar_ends(matrix, limits)
        figure.colorbar(image, ax=axes, orientation="horizontal", shrink=0.8, extend=extend)
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        figure = draw(read_dataset(snakemake.input.cosine_similarities), **snakemake.params.options)
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
