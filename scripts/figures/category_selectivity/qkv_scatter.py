"""Activations of Q, K and V against each other, at one layer and token."""

import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.panels import dots, looks, panel_grid
from microtome.figures.style import save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job


def draw(points: xr.Dataset) -> Figure:
    """Draw one scatter per pair of `qkv_points`; source: project 38, part 2."""
    pairs = points["pair"].values
    figure, panels = panel_grid(len(pairs), (12, 3.5), layout="tight")
    for axes, pair, look in zip(panels, pairs, looks(len(pairs)), strict=True):
        x, y = points[pair].values
        first, second = pair.upper().split("-")
        r = points["r"].sel(pair=pair).item()
        dots(
            axes,
            x,
            y,
            look.fill,
            xlabel=f"{first} activations",
            ylabel=f"{second} activations",
            title=f"{first} by {second} (r = {r:.3f})",
        )
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        figure = draw(read_dataset(snakemake.input.qkv_points), **snakemake.params.options)
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
