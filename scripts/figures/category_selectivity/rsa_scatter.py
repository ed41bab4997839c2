"""The words' similarities at Q, K and V against each other, at one layer."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.panels import dots, looks, panel_grid
from microtome.figures.style import save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job


def draw(similarities: xr.Dataset, rsa: xr.Dataset, *, layer: int) -> Figure:
    """Draw each pair of words once per pair of sites; source: project 38, part 3.

    Args:
        similarities: the statistic `cosine_similarities`.
        rsa: the statistic of that name, whose scores are in the titles.
        layer: the layer.
    """
    upper = np.triu_indices(similarities.sizes["word"], 1)
    cosine = similarities["cosine"].sel(layer=layer)
    pairs = rsa["pair"].values
    figure, panels = panel_grid(len(pairs), (10, 3), layout="tight")
    for axes, pair, look in zip(panels, pairs, looks(len(pairs)), strict=True):
        first, second = pair.split("-")
        r = rsa["r"].sel(layer=layer, pair=pair).item()
        dots(
            axes,
            cosine.sel(site=first).values[upper],
            cosine.sel(site=second).values[upper],
            look.fill,
            xlabel=f"{first.upper()} cossim",
            ylabel=f"{second.upper()} cossim",
            title=f"{first.upper()} and {second.upper()} (r = {r:.3f})",
        )
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        figure = draw(
            read_dataset(snakemake.input.cosine_similarities),
            read_dataset(snakemake.input.rsa),
            **snakemake.params.options,
        )
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
