"""Distributions of similarities within and across categories, at one layer."""

from string import ascii_uppercase

import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.panels import histogram_line, panel_grid
from microtome.figures.style import save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job


def draw(distributions: xr.Dataset) -> Figure:
    """Draw both histograms of each site; source: project 38, part 5."""
    sites = distributions["site"].values
    figure, panels = panel_grid(len(sites), (12, 3.4), layout="tight")
    for axes, site, letter in zip(panels, sites, ascii_uppercase, strict=False):
        for pairs in distributions["pairs"].values:
            histogram = distributions.sel(site=site, pairs=pairs)
            edges, density = histogram["left_edge"].values, histogram["density"].values
            histogram_line(axes, edges, density, linewidth=2, label=pairs.capitalize())
        t = distributions["t"].sel(site=site).item()
        axes.set(xlabel="Cosine similarity", ylabel="Density", ylim=(0, None))
        axes.set(title=f"{letter}) {site.upper()} (t = {t:.2f})")
        axes.legend()
    layer = int(distributions["layer"])
    title = f"Category-specific similarity distributions, layer {layer}"
    figure.suptitle(title, fontsize=15, fontweight="bold")
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        distributions = read_dataset(snakemake.input.similarity_distributions)
        figure = draw(distributions, **snakemake.params.options)
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
