"""Figures of the study on the selectivity of hidden states; see README.md."""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from microtome.figures.panels import (
    colour_bar_ends,
    depth_colours,
    histogram_line,
    panel,
    sparse_ticks,
    strips,
    token_label,
)
from microtome.figures.style import FILLS, ink
from microtome.options import Limits


def token_variances(token_variances: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw the variance of each dimension at each token; source: project 25, part 1.

    Args:
        token_variances: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (8, 3), layout="tight")
    strips(axes, token_variances["variance"].values, size=9, jitter=0.03)
    texts = [token_label(text) or "last token" for text in token_variances["text"].values]
    labels = [f"{place}\n{text}" for place, text in enumerate(texts)]
    axes.set_xticks(range(len(labels)), labels)
    axes.set(xlabel="Token position", ylabel="Variance", xlim=(-0.5, len(labels) - 0.5))
    axes.set(title=f"Variance over texts in hidden state {token_variances.attrs['hidden']}")
    return figure


def category_pairs(category_pairs: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw the products of category numbers as an image; source: project 25, parts 2 and 5.

    Args:
        category_pairs: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (7, 5), layout="constrained")
    kinds = np.array([0, *category_pairs["kind"].values])
    edges = np.array([-0.5, *(kinds[:-1] + kinds[1:]) / 2, kinds[-1] + 0.5])
    colours = ListedColormap(mpl.colormaps["viridis"](np.linspace(0, 1, len(kinds))))
    image = axes.imshow(
        category_pairs["product"].values, cmap=colours, norm=BoundaryNorm(edges, len(kinds))
    )
    names = zip(category_pairs["first"].values, category_pairs["second"].values, strict=True)
    labels = [
        "0: not compared",
        *(f"{k}: {a}, {b}" for k, (a, b) in zip(kinds[1:], names, strict=True)),
    ]
    bar = figure.colorbar(image, ax=axes, pad=0.02, ticks=(edges[:-1] + edges[1:]) / 2)
    bar.ax.set_yticklabels(labels)
    axes.set(xlabel="Word index", ylabel="Word index", title="Pairs of categories")
    return figure


def category_similarities(
    cosine_similarities: xr.Dataset,
    similarity_distributions: xr.Dataset,
    selectivity: xr.Dataset,
    *,
    limits: Limits,
) -> Figure:
    """Draw the matrix of one hidden state and its distributions; source: project 25, parts 2 and 5.

    Args:
        cosine_similarities: the statistic.
        similarity_distributions: the statistic, which says of which hidden state.
        selectivity: the statistic, whose difference and t are in the title.
        limits: the similarities at the ends of the colour scale.
    """
    hidden = similarity_distributions.attrs["hidden"]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    matrix = cosine_similarities["cosine"].sel(hidden=hidden).values
    image = left.imshow(matrix, vmin=limits[0], vmax=limits[1], cmap="magma")
    figure.colorbar(image, ax=left, pad=0.01, extend=colour_bar_ends(matrix, limits))
    left.set(xlabel="Word index", ylabel="Word index", title="A) Cosine similarity matrix")
    for pairs in similarity_distributions["pairs"].values:
        chosen = similarity_distributions.sel(pairs=pairs)
        centres, density = chosen["centre"].values, chosen["density"].values
        histogram_line(right, centres, density, linewidth=2, label=_label(pairs))
    chosen = selectivity.sel(scale="cosine", hidden=hidden)
    difference, t = chosen["difference"].item(), chosen["t"].item()
    right.set(xlabel="Cosine similarity", ylabel="Density", ylim=(0, None))
    right.set(title=f"B) {hidden} distributions ($\\Delta$ = {difference:z.2f}, t = {t:z.2f})")
    right.legend()
    return figure


def selectivity_profile(selectivity: xr.Dataset) -> Figure:
    """Draw averages, differences and t over the hidden states; source: project 25, part 3."""
    chosen = selectivity.sel(scale="cosine")
    hidden, difference, t = (chosen[name].values for name in ("hidden", "difference", "t"))
    within, across = chosen["average"].values + np.multiply.outer((0.5, -0.5), difference)
    places, colours = np.arange(len(hidden)), depth_colours(len(hidden))
    figure = Figure(figsize=(10, 7), layout="constrained")
    averages, differences, ts, both = figure.subplots(2, 2).flat
    size = min(12, 330 / len(hidden))
    averages.vlines(
        places, across, within, colors=ink(), linestyles=":", linewidth=0.5, label="$\\Delta$"
    )
    for values, marker, fill, label in (
        (within, "h", FILLS[1], "Within"),
        (across, "o", FILLS[0], "Across"),
    ):
        look = {"markersize": size, "markeredgewidth": 0.7, "markerfacecolor": (*fill, 0.7)}
        averages.plot(places, values, marker, color=ink(), label=label, **look)
    averages.legend()
    averages.set(ylabel="Cosine similarity", title="A) Average similarities")
    for axes, x, y in ((differences, places, difference), (ts, places, t), (both, difference, t)):
        axes.scatter(x, y, s=size**2, c=colours, edgecolors=ink(), alpha=0.7)
    differences.set(ylabel="$\\mathbf{\\Delta}$", title="B) Similarity mean differences")
    ts.set(ylabel="T-value", title="C) T-values")
    both.set(xlabel="$\\mathbf{\\Delta}$", ylabel="T-value", title="D) Impact of normalization")
    for axes in (averages, differences, ts):
        sparse_ticks(axes.xaxis, hidden, most=11)
        axes.set(xlabel="Hidden state layer")
    return figure


def context_histograms(context_histograms: xr.Dataset, *, limits: Limits) -> Figure:
    """Draw the histograms of all hidden states as images; source: project 25, part 6.

    Args:
        context_histograms: the statistic.
        limits: the probabilities at the ends of the colour scale.
    """
    names, hidden = context_histograms["pairs"].values, context_histograms["hidden"].values
    low, high = (context_histograms.attrs[end] for end in ("low", "high"))
    figure = Figure(figsize=(4 * len(names), 4.2), layout="constrained")
    row = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, pairs in zip(row, names, strict=True):
        chosen = context_histograms.sel(pairs=pairs)
        probability = chosen["probability"].values
        image = axes.imshow(
            probability,
            vmin=limits[0],
            vmax=limits[1],
            aspect="auto",
            origin="lower",
            interpolation="nearest",
            extent=(low, high, -0.5, len(hidden) - 0.5),
            cmap="magma",
        )
        extend = colour_bar_ends(probability, limits)
        bar = figure.colorbar(image, ax=axes, location="top", pad=0.02, extend=extend)
        bar.ax.set_title(_label(pairs))
        beyond = chosen["beyond"].values.max()
        left_out = f"\n(up to {beyond:.0%} beyond)" if beyond >= 0.01 else ""
        axes.set(xlabel="Cosine similarity" + left_out, ylabel="Hidden layer")
        sparse_ticks(axes.yaxis, hidden, most=13)
    return figure


def _label(pairs: str) -> str:
    """The name of a group of pairs: those within and across categories, or a group of words."""
    return pairs if pairs.startswith("<") else f"{pairs.capitalize()}-category"
