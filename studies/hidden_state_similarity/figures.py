"""Figures of the study on similarities of hidden states; see README.md."""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from microtome.figures.panels import (
    depth_colours,
    heatmap,
    laminar_profile,
    panel,
    sparse_ticks,
    strips,
    token_label,
)
from microtome.figures.style import DEPTH, ink
from microtome.options import FirstPosition, Limits
from microtome.statistics.positions import from_position

DEPTH_LABEL = "Hidden layer (model depth)"


def token_deviations(
    token_descriptives: xr.Dataset,
    *,
    limits: Limits,
    relative: bool = False,
    ax: Axes | None = None,
) -> Figure:
    """Draw the standard deviation of every token and hidden state; source: project 24, part 2.

    Args:
        token_descriptives: the statistic.
        limits: the standard deviations at the ends of the colour scale.
        relative: whether these are multiples of the largest median of a hidden state, since models
            differ in scale, and first tokens from the others.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (8, 5), layout="constrained")
    sd = token_descriptives["sd"].transpose("hidden", "token").values
    if relative:
        largest = float(np.median(sd, axis=1).max())
        limits = (limits[0] * largest, limits[1] * largest)
    heatmap(axes, sd, limits, "Standard deviation")
    sparse_ticks(axes.xaxis, [token_label(text) for text in token_descriptives["text"].values], 14)
    sparse_ticks(axes.yaxis, token_descriptives["hidden"].values, most=31)
    axes.set(ylabel=DEPTH_LABEL, title="Variability of the hidden states")
    return figure


def layer_distances(layer_distances: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw the distance of each two hidden states; source: project 24, part 3.

    Args:
        layer_distances: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (3.6, 2.8), layout="constrained")
    image = axes.imshow(layer_distances["distance"].values, origin="lower", cmap="magma")
    figure.colorbar(image, ax=axes, pad=0.02, label="Distance (blocks)")
    for axis in (axes.xaxis, axes.yaxis):
        sparse_ticks(axis, layer_distances["hidden"].values, most=5)
    axes.set(xlabel="Hidden layer", ylabel="Hidden layer", title="Inter-layer distances")
    return figure


def similarity_by_distance(layer_similarity: xr.Dataset, layer_distances: xr.Dataset) -> Figure:
    """Draw similarity against distance, coloured by the later state; source: project 24, part 3."""
    tokens = [token_label(text) for text in layer_similarity["text"].values]
    figure = Figure(figsize=(3 * len(tokens), 3), layout="constrained")
    hidden = layer_similarity["hidden"].values
    first, second = np.triu_indices(len(hidden), 1)
    distance = layer_distances["distance"].values[first, second]
    colours = depth_colours(len(hidden))[second]
    row = figure.subplots(1, len(tokens), sharey=True, squeeze=False)[0]
    for axes, token, matrix in zip(row, tokens, layer_similarity["cosine"].values, strict=True):
        axes.scatter(
            distance,
            matrix[first, second],
            30,
            c=colours,
            marker="h",
            edgecolors=ink(),
            linewidths=0.3,
            rasterized=len(tokens) * len(first) > 2000,
        )
        axes.set(xlabel="Inter-layer distance", title=f'"{token}"')
        axes.locator_params("x", integer=True)
    row[0].set(ylabel="Cosine similarity")
    _depth_bar(figure, row[-1], hidden, "Later hidden layer")
    return figure


def similarity_controls(similarity_controls: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw the mean similarity of two tokens without what all tokens share.

    Args:
        similarity_controls: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (10, 4), layout="tight")
    n, hidden = similarity_controls.attrs["n_dimensions"], similarity_controls["hidden"].values
    names = {
        "within": "Tokens of one text",
        "across": "Tokens of two texts",
        "without_largest": f"Without {n} largest\ndimension{'' if n == 1 else 's'}",
        "centred": "Without the mean token",
        "permuted": "Dimensions permuted",
        "with_first": "With the first token",
    }
    series = {
        label: similarity_controls[name].values
        for name, label in names.items()
        if similarity_controls[name].notnull().any()
    }
    laminar_profile(axes, np.arange(len(hidden)), series, "Mean cosine similarity")
    sparse_ticks(axes.xaxis, hidden, most=12)
    axes.set(xlabel=DEPTH_LABEL, title="What makes tokens similar")
    return figure


def descriptives(descriptives: xr.Dataset, *, first_token: FirstPosition) -> Figure:
    """Draw mean, L1 mean, standard deviation and their relation; source: project 24, part 5.

    Args:
        descriptives: the statistic.
        first_token: the position of the first token of each text that is drawn.
    """
    kept, hidden = from_position(descriptives, first_token), descriptives["hidden"].values
    figure = Figure(figsize=(10, 6), layout="constrained")
    (top_left, top_right), (low_left, low_right) = figure.subplots(2, 2)
    for axes, name, label, title, marker in (
        (top_left, "mean", "Arithmetic mean", "A) Arithmetic means", "o"),
        (top_right, "mean_absolute", "L1 mean", "B) L1 means", "o"),
        (low_left, "sd", "Standard deviation", "C) Standard deviations", "s"),
    ):
        strips(axes, kept[name].values, marker=marker, size=3)
        sparse_ticks(axes.xaxis, hidden, most=11)
        axes.set(xlabel=DEPTH_LABEL, ylabel=label, title=title)
    top_left.axhline(0, color=ink(), linestyle="--", linewidth=0.8, zorder=-1000)
    for colour, mean, sd in zip(
        depth_colours(len(hidden)), kept["mean"].values, kept["sd"].values, strict=True
    ):
        look = {"markersize": 3, "alpha": 0.3, "rasterized": kept["mean"].size > 2000}
        low_right.plot(mean, sd, ".", color=colour, **look)
    low_right.set(xlabel="Arithmetic mean", ylabel="Standard deviation", title="D) Relationships")
    _depth_bar(figure, low_right, hidden, "Hidden layer")
    return figure


def _depth_bar(figure: Figure, axes: Axes, hidden: np.ndarray, label: str) -> None:
    """Draw a colour bar of the hidden states beside axes, with some of their names."""
    n = len(hidden)
    depth = ScalarMappable(Normalize(-1, n - 1), mpl.colormaps[DEPTH])
    bar = figure.colorbar(depth, ax=axes, pad=0.02, label=label)
    bar.ax.set_ylim(-0.5, n - 1)
    sparse_ticks(bar.ax.yaxis, hidden, most=8)
