"""Figures of the study on silenced heads; see README.md."""

from string import ascii_uppercase
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from microtome.figures.panels import (
    clean_line,
    depth_colours,
    heatmap,
    histogram_line,
    marks,
    panel,
    sparse_ticks,
    token_label,
)
from microtome.figures.style import DEPTH, FILLS, LINES, ink

#: How the target and the maximum are called, and drawn: colour, marker, fill, place by the tick.
SERIES = {
    "target": ("Target token", LINES[0], "s", FILLS[0], -0.1),
    "maximum": ("Most likely token", LINES[1], "o", FILLS[1], 0.1),
}


def clean_similarity(clean_similarity: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw means over an image of the histograms; source: project 40, part 2.

    Args:
        clean_similarity: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (10, 4), layout="constrained")
    layers, centres = clean_similarity["layer"].values, clean_similarity["value"].values
    count, half = clean_similarity["count"].values, np.diff(centres).mean() / 2
    # The fullest bins would leave the others pale.
    limits = (0, 0.8 * count.max())
    extent = (-0.5, len(layers) - 0.5, centres[0] - half, centres[-1] + half)
    heatmap(axes, count.T, limits, "Pairs of tokens", cmap="afmhot_r", extent=extent)
    marks(axes, clean_similarity["mean"].values, [FILLS[4]] * len(layers))
    sparse_ticks(axes.xaxis, [f"L{layer}" for layer in layers], most=16)
    beyond = clean_similarity["beyond"].values.max()
    left_out = f"\n(up to {beyond:.0%} beyond)" if beyond >= 0.01 else ""
    axes.set(xlabel="Transformer block", ylabel="Cosine similarity" + left_out)
    axes.set(title="Similarity of tokens: averages and distributions")
    return figure


def similarity_change(similarity_change: xr.Dataset) -> Figure:
    """Draw histograms from the silenced layer on, and all means; source: project 40, part 3."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    layers, silenced = similarity_change["layer"].values, similarity_change.attrs["silenced_layer"]
    colours = depth_colours(len(layers), first=0)
    for place in np.flatnonzero(layers >= silenced):
        edges = similarity_change["left_edge"].values[place]
        count = similarity_change["count"].values[place]
        histogram_line(left, edges, count, marker=".", linewidth=2, color=colours[place])
    depth = ScalarMappable(Normalize(0, len(layers)), mpl.colormaps[DEPTH])
    figure.colorbar(depth, ax=left, pad=0.02, label="Transformer block")
    left.axvline(0, linestyle="--", color=ink(), linewidth=0.5)
    left.set(xlabel="Clean minus silenced cosine similarity", ylabel="Pairs of tokens")
    left.set(ylim=(0, None), title="A) Distributions of differences")
    marks(right, similarity_change["mean"].values, colours, size=80)
    right.axhline(0, linestyle="--", color=ink(), linewidth=0.5, zorder=0)
    right.axvline(
        np.flatnonzero(layers == silenced)[0], linestyle="--", color=ink(), linewidth=0.5, zorder=0
    )
    sparse_ticks(right.xaxis, [f"L{layer}" for layer in layers], most=8)
    right.set(xlabel="Transformer block", ylabel="Mean difference", title="B) Average differences")
    head = similarity_change.attrs["silenced_head"]
    figure.suptitle(f"Head {head} of layer {silenced} silenced", fontweight="bold")
    return figure


def one_head(one_head: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw the most likely token's log-probability; source: project 40, part 4.

    Args:
        one_head: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (10, 3), layout="tight")
    values = one_head["log_probability"].values
    marks(axes, values, depth_colours(len(values), first=0))
    changed, texts = one_head["changed"].values == 1, one_head["text"].values
    for place in np.flatnonzero(changed):
        label = token_label(texts[place])
        above: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "bottom"}
        axes.annotate(label, (place, values[place]), (0, 7), fontsize=8, **above)
    clean_line(axes, one_head["clean"].item())
    axes.margins(x=0.03, y=0.15)
    sparse_ticks(axes.xaxis, [f"L{layer}" for layer in one_head["layer"].values], most=16)
    axes.set(xlabel="Transformer block of the silenced head", ylabel="Log softmax")
    clean = f'("{token_label(texts[~changed][0])}" unless labelled) ' if not changed.all() else ""
    axes.set(title=f"Most likely token {clean}with head {one_head.attrs['head']} silenced")
    return figure


def each_head(each_head: xr.Dataset) -> Figure:
    """Draw the target and the maximum as images, heads by layers; source: project 40, part 5."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    target = token_label(each_head["text"].item())
    titles = (f'Target token "{target}"', "Most likely token")
    for axes, variable, title, letter in zip(
        figure.subplots(1, 2), SERIES, titles, ascii_uppercase, strict=False
    ):
        change = each_head[variable].transpose("head", "layer").values
        # The few largest would leave the others pale.
        limit = 2 * np.abs(change).mean()
        label = "Log softmax minus clean"
        heatmap(axes, change, (-limit, limit), label, pad=0.02, cmap="RdBu_r")
        axes.spines[["top", "right"]].set_visible(True)
        sparse_ticks(axes.xaxis, [f"L{layer}" for layer in each_head["layer"].values], most=12)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="Transformer block", ylabel="Attention head", title=f"{letter}) {title}")
    return figure


def layer_averages(layer_averages: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw means over the heads with bars of one standard deviation; source: project 40, part 5.

    Args:
        layer_averages: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (10, 3.5), layout="tight")
    places = np.arange(layer_averages.sizes["layer"])
    for token, (label, colour, marker, fill, aside) in SERIES.items():
        chosen = layer_averages.sel(token=token)
        axes.errorbar(
            places + aside,
            chosen["mean"].values,
            chosen["sd"].values,
            linestyle="none",
            color=colour,
            marker=marker,
            markersize=8 if len(places) <= 24 else 6,
            markerfacecolor=fill,
            label=label,
        )
    axes.axhline(0, linestyle="--", color=ink(), linewidth=0.5)
    sparse_ticks(axes.xaxis, [f"L{layer}" for layer in layer_averages["layer"].values], most=16)
    axes.margins(x=0.02)
    axes.set(xlabel="Transformer block of the silenced head", ylabel="Log softmax minus clean")
    axes.set(title="Average over single heads (bars: standard deviation)")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure
