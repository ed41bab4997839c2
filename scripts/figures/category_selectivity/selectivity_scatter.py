"""Category selectivity against the average similarity, coloured by depth."""

import matplotlib as mpl
import xarray as xr
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from microtome.figures.style import DEPTH, ink, save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job

LABELS = {
    "cosine": ("Cosine similarity differences", "Average cosine similarity"),
    "fisher_z": ("Fisher-z(cos.sim) diffs", "Fisher-z(cos.sim) ave."),
}


def draw(selectivity: xr.Dataset, *, scale: str) -> Figure:
    """Draw differences and t against averages; source: project 38, parts 6 and 7.

    Args:
        selectivity: the statistic.
        scale: `cosine`, or `fisher_z` of the cosines.
    """
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    chosen = selectivity.sel(scale=scale)
    layers = chosen["layer"].values
    depth = ScalarMappable(Normalize(layers.min(), layers.max()), mpl.colormaps[DEPTH])
    for axes, variable, marker in ((left, "difference", "o"), (right, "t", "s")):
        axes.scatter(
            chosen[variable].values,
            chosen["average"].values,
            c=depth.to_rgba(layers.repeat(chosen.sizes["site"])),
            marker=marker,
            s=36,
            edgecolors=ink(),
            alpha=0.7,
        )
    differences, averages = LABELS[scale]
    left.set(xlabel=differences, ylabel=averages, title="A) Differences vs. averages")
    right.set(xlabel="T-values", ylabel=averages, title="B) T-values vs. averages")
    figure.colorbar(depth, ax=right, label="Transformer layer", pad=0.01)
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        figure = draw(read_dataset(snakemake.input.selectivity), **snakemake.params.options)
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
