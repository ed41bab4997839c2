"""Figures of the study on category selectivity; see README.md."""

from string import ascii_uppercase
from typing import Literal

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from microtome.figures.panels import (
    colour_bar_ends,
    dots,
    histogram_line,
    laminar_profile,
    looks,
    panel,
    panel_grid,
)
from microtome.figures.style import DEPTH, FILLS, ink
from microtome.options import Layer, Limits

#: Titles of the masks.
MASKS = {
    "same_category": "A) Same-category mask",
    "upper_triangle": "B) Upper-triangular mask",
    "within": "C) Within-category mask",
    "across": "D) Across-category mask",
}

#: Labels of differences and averages on each scale.
LABELS = {
    "cosine": ("Cosine similarity differences", "Average cosine similarity"),
    "fisher_z": ("Fisher-z(cos.sim) diffs", "Fisher-z(cos.sim) ave."),
}


def cosine_matrices(cosine_similarities: xr.Dataset, *, layer: Layer, limits: Limits) -> Figure:
    """Draw the matrices of `cosine_similarities` at a layer; source: project 38, part 3.

    Args:
        cosine_similarities: the statistic.
        layer: the layer.
        limits: the similarities at the ends of the colour scale.
    """
    category = cosine_similarities["category"].values
    borders = np.flatnonzero(category[1:] != category[:-1]) + 0.5
    sites = cosine_similarities["site"].values
    figure, panels = panel_grid(len(sites), (10, 4), layout="constrained")
    for axes, site, letter in zip(panels, sites, ascii_uppercase, strict=False):
        matrix = cosine_similarities["cosine"].sel(layer=layer, site=site).values
        image = axes.imshow(matrix, vmin=limits[0], vmax=limits[1], cmap="magma")
        for border in borders:
            axes.axhline(border, color="w", linestyle="--", linewidth=0.5)
            axes.axvline(border, color="w", linestyle="--", linewidth=0.5)
        axes.set(xticks=[], title=f"{letter}) {site.upper()} cosine similarities")
        axes.set(xlabel="Words", ylabel="Words")
        extend = colour_bar_ends(matrix, limits)
        figure.colorbar(image, ax=axes, orientation="horizontal", shrink=0.8, extend=extend)
    return figure


def fisher_z(fisher_z: xr.Dataset) -> Figure:
    """Draw the transformation and both distributions; source: project 38, part 7."""
    figure = Figure(figsize=(10, 4), layout="tight")
    left, right = figure.subplots(1, 2)
    left.plot(
        fisher_z["r"].values,
        fisher_z["z"].values,
        "o",
        color=ink(),
        markerfacecolor=(*FILLS[1], 0.3),
        rasterized=True,
    )
    left.axline((-1, -1), slope=1, linestyle="--", color=ink())
    left.grid(linestyle="--", linewidth=0.3)
    left.set(
        xlabel="Cosine similarity",
        ylabel="Fisher-z transform",
        title="A) Impact of transformation",
    )
    for scale, label in (("cosine", "Cos. similarities"), ("fisher_z", "Fisher-z")):
        chosen = fisher_z.sel(scale=scale)
        edges, counts = chosen["left_edge"].values, chosen["count"].values
        histogram_line(right, edges, counts, linewidth=2, label=label)
    right.set(xlabel="Similarity or Fisher-z value", ylabel="Count", title="B) Distributions")
    right.legend()
    return figure


def masks(word_pairs: xr.Dataset) -> Figure:
    """Draw the four masks of `word_pairs`; source: project 38, part 1."""
    figure = Figure(figsize=(10, 8), layout="tight")
    for axes, (mask, title) in zip(figure.subplots(2, 2).flat, MASKS.items(), strict=True):
        axes.imshow(word_pairs[mask].values, cmap="viridis", vmin=0, vmax=1)
        axes.set(xlabel="Words", ylabel="Words", title=title)
    return figure


def qkv_profile(qkv_correlations: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw `qkv_correlations` over the layers; source: project 38, part 2.

    Args:
        qkv_correlations: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (10, 3), layout="tight")
    series = {
        pair.upper(): qkv_correlations["r"].sel(pair=pair).values
        for pair in qkv_correlations["pair"].values
    }
    layers = qkv_correlations["layer"].values
    laminar_profile(axes, layers, series, "Correlation coefficient")
    return figure


def qkv_scatter(qkv_points: xr.Dataset) -> Figure:
    """Draw one scatter per pair of `qkv_points`; source: project 38, part 2."""
    pairs = qkv_points["pair"].values
    figure, panels = panel_grid(len(pairs), (12, 3.5), layout="tight")
    for axes, pair, look in zip(panels, pairs, looks(len(pairs)), strict=True):
        x, y = qkv_points[pair].values
        first, second = pair.upper().split("-")
        r = qkv_points["r"].sel(pair=pair).item()
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


def rsa_profile(rsa: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw the scores of `rsa` over the layers; source: project 38, part 4.

    Args:
        rsa: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (10, 3), layout="tight")
    series = {pair.upper(): rsa["r"].sel(pair=pair).values for pair in rsa["pair"].values}
    laminar_profile(axes, rsa["layer"].values, series, "RSA scores")
    return figure


def rsa_scatter(cosine_similarities: xr.Dataset, rsa: xr.Dataset, *, layer: Layer) -> Figure:
    """Draw each pair of words once per pair of sites; source: project 38, part 3.

    Args:
        cosine_similarities: the statistic `cosine_similarities`.
        rsa: the statistic of that name, whose scores are in the titles.
        layer: the layer.
    """
    upper = np.triu_indices(cosine_similarities.sizes["word"], 1)
    cosine = cosine_similarities["cosine"].sel(layer=layer)
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


def selectivity_profile(selectivity: xr.Dataset, *, scale: Literal["cosine", "fisher_z"]) -> Figure:
    """Draw differences and t over the layers; source: project 38, parts 6 and 7.

    Args:
        selectivity: the statistic.
        scale: `cosine`, or `fisher_z` of the cosines.
    """
    figure = Figure(figsize=(12, 3), layout="tight")
    left, right = figure.subplots(1, 2)
    chosen = selectivity.sel(scale=scale)
    layers = chosen["layer"].values
    for axes, variable, ylabel, title in (
        (left, "difference", "Differences", "A) Within - Across"),
        (right, "t", "Selectivity (t-stat)", "B) T values"),
    ):
        sites = chosen["site"].values
        series = {site.upper(): chosen[variable].sel(site=site).values for site in sites}
        laminar_profile(axes, layers, series, ylabel)
        axes.set(title=title + (" of Fisher-z" if scale == "fisher_z" else ""))
    return figure


def selectivity_scatter(selectivity: xr.Dataset, *, scale: Literal["cosine", "fisher_z"]) -> Figure:
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
    # Labels as long as −0.0025 would overlap.
    left.ticklabel_format(axis="x", scilimits=(-2, 4))
    right.set(xlabel="T-values", ylabel=averages, title="B) T-values vs. averages")
    figure.colorbar(depth, ax=right, label="Transformer layer", pad=0.01)
    return figure


def similarity_distributions(similarity_distributions: xr.Dataset) -> Figure:
    """Draw both histograms of each site; source: project 38, part 5."""
    sites = similarity_distributions["site"].values
    figure, panels = panel_grid(len(sites), (12, 3.4), layout="tight")
    for axes, site, letter in zip(panels, sites, ascii_uppercase, strict=False):
        for pairs in similarity_distributions["pairs"].values:
            histogram = similarity_distributions.sel(site=site, pairs=pairs)
            edges, density = histogram["left_edge"].values, histogram["density"].values
            histogram_line(axes, edges, density, linewidth=2, label=pairs.capitalize())
        t = similarity_distributions["t"].sel(site=site).item()
        axes.set(xlabel="Cosine similarity", ylabel="Density", ylim=(0, None))
        axes.set(title=f"{letter}) {site.upper()} (t = {t:.2f})")
        axes.legend()
    layer = int(similarity_distributions["layer"])
    title = f"Category-specific similarity distributions, layer {layer}"
    figure.suptitle(title, fontsize=15, fontweight="bold")
    return figure
