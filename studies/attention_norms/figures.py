"""Figures of the study on norms of attention's updates; see README.md."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from microtome.figures.panels import depth_colours, histogram_line, panel, sparse_ticks, strips
from microtome.figures.style import FILLS, ink
from microtome.statistics.positions import from_position


def autoregression(autoregression: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw the betas of `autoregression` over the layers; source: part 4.

    Args:
        autoregression: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (10, 4), layout="tight")
    places = np.arange(autoregression.sizes["layer"])
    axes.axhline(0, color="gray")
    for term, marker, fill in zip(
        autoregression["term"].values, "so", (FILLS[0], FILLS[2]), strict=True
    ):
        beta = autoregression["beta"].sel(term=term).values
        significant = autoregression["significant"].sel(term=term).values == 1
        axes.plot(
            places,
            beta,
            color=fill,
            linewidth=1.5,
            marker=marker,
            markevery=places[significant].tolist(),
            markersize=12 if len(places) <= 12 else 9,
            markeredgewidth=0.5,
            markeredgecolor=ink(),
            label=term,
        )
        axes.plot(places[~significant], beta[~significant], "x", color=ink(), markersize=6)
    axes.plot([], [], "x", color=ink(), label=f"p ≥ {autoregression.attrs['alpha']:g}")
    sparse_ticks(axes.xaxis, [f"L{layer}" for layer in autoregression["layer"].values], most=16)
    axes.margins(x=0.02)
    axes.set(xlabel="Transformer block", ylabel="Beta")
    axes.set(title="Predicting token update from previous token updates")
    axes.grid(linewidth=0.3, linestyle="--")
    axes.legend(fontsize=14, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def norms(norms: xr.Dataset, norm_histograms: xr.Dataset) -> Figure:
    """Draw `norms` as hexagons and `norm_histograms` as lines, coloured by depth; source: part 4.

    Args:
        norms: the statistic, of which the tokens that the histograms count are drawn.
        norm_histograms: the statistic `norm_histograms`.
    """
    figure = Figure(figsize=(12, 4), layout="tight")
    left, right = figure.subplots(1, 2)
    rows = from_position(norms, norm_histograms.attrs["first_token"])["log_norm"].values
    colours = depth_colours(len(rows), first=0)
    strips(left, rows, colours=colours, marker="h", size=10 if len(rows) <= 12 else 7, jitter=0.08)
    edges, counts = norm_histograms["left_edge"].values, norm_histograms["count"].values
    for edge, count, colour in zip(edges, counts, colours, strict=True):
        histogram_line(right, edge, count, marker="s", color=colour, markersize=4, alpha=0.8)
    sparse_ticks(left.xaxis, [f"L{layer}" for layer in norms["layer"].values], most=12)
    left.set(xlabel="Transformer block", ylabel="Attention norm (log)")
    left.set(title="A) Attention norms")
    right.set(xlabel="Attention norm (log)", ylabel="Count", ylim=(0, None))
    right.set(title="B) Attention norm distributions")
    return figure
