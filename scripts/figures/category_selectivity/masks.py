"""The masks that say which pairs of words share a category."""

import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.style import save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job

PANELS = {
    "same_category": "A) Same-category mask",
    "upper_triangle": "B) Upper-triangular mask",
    "within": "C) Within-category mask",
    "across": "D) Across-category mask",
}


def draw(pairs: xr.Dataset) -> Figure:
    """Draw the four masks of `word_pairs`; source: project 38, part 1."""
    figure = Figure(figsize=(10, 8), layout="tight")
    for axes, (mask, title) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        axes.imshow(pairs[mask].values, cmap="viridis", vmin=0, vmax=1)
        axes.set(xlabel="Words", ylabel="Words", title=title)
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        figure = draw(read_dataset(snakemake.input.word_pairs), **snakemake.params.options)
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
