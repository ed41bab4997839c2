"""Log norms of what attention adds to each token, and their distributions, for every layer."""

import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.panels import depth_colours, histogram_line, sparse_ticks, strips
from microtome.figures.style import save, style
from microtome.statistics.positions import from_position
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job


def draw(norms: xr.Dataset, histograms: xr.Dataset) -> Figure:
    """Draw `norms` as hexagons and `norm_histograms` as lines, coloured by depth; source: part 4.

    Args:
        norms: the statistic, of which the tokens that the histograms count are drawn.
        histograms: the statistic `norm_histograms`.
    """
    figure = Figure(figsize=(12, 4), layout="tight")
    left, right = figure.subplots(1, 2)
    rows = from_position(norms, histograms.attrs["first_token"])["log_norm"].values
    colours = depth_colours(len(rows), first=0)
    strips(left, rows, colours=colours, marker="h", size=10 if len(rows) <= 12 else 7, jitter=0.08)
    for edges, counts, colour in zip(
        histograms["left_edge"].values, histograms["count"].values, colours, strict=True
    ):
        histogram_line(right, edges, counts, marker="s", color=colour, markersize=4, alpha=0.8)
    sparse_ticks(left.xaxis, [f"L{layer}" for layer in norms["layer"].values], most=12)
    left.set(xlabel="Transformer block", ylabel="Attention norm (log)")
    left.set(title="A) Attention norms")
    right.set(xlabel="Attention norm (log)", ylabel="Count", ylim=(0, None))
    right.set(title="B) Attention norm distributions")
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        norms = read_dataset(snakemake.input.norms)
        histograms = read_dataset(snakemake.input.norm_histograms)
        figure = draw(norms, histograms, **snakemake.params.options)
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
