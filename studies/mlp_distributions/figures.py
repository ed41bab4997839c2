"""Figures of the study on MLP distributions; see README.md."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from microtome.figures.labels import stage_labels
from microtome.figures.panels import (
    colour_bar_ends,
    dots,
    histogram_images,
    panel,
    stage_images,
    token_label,
)
from microtome.figures.style import DEPTH, FILLS, ink
from microtome.options import Layer, Limits

#: The squared difference at the end of the colour scale.
LARGEST = 10

#: Fill colour and marker of each ring.
LOOKS = {"inner": (FILLS[1], "o"), "outer": (FILLS[0], "s")}

#: What the matrices do, where their names do not say so.
TITLES = {"W1": "W1 (expansion)", "W2": "W2 (contraction)"}

#: Fill colour of the scatter plot.
FILL = (0.7, 0.9, 0.9)

#: Area of a token's marker, in square points.
MARKER = 100

#: Where a label may stand by its marker: the offset in points and what of it is aligned there.
ASIDE = (
    ((0, 7), "center", "bottom"),
    ((0, -7), "center", "top"),
    ((8, 0), "left", "center"),
    ((-8, 0), "right", "center"),
)


def gelu(gelu: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw the values before and after; source: project 42, the demo of GELU.

    Args:
        gelu: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (10, 5), layout="constrained")
    raw, difference = gelu["raw"].values, gelu["squared_difference"].values
    axes.plot(raw, raw, color=ink())
    points = axes.scatter(
        raw,
        gelu["gelu"].values,
        s=60,
        c=difference,
        marker="h",
        edgecolors=ink(),
        alpha=0.7,
        cmap="magma",
        vmin=0,
        vmax=LARGEST,
    )
    extend = colour_bar_ends(difference, (0, LARGEST))
    figure.colorbar(points, ax=axes, pad=0.01, extend=extend, label="Squared difference")
    axes.grid(linestyle="--", linewidth=0.4)
    axes.set_axisbelow(True)
    axes.set(
        xlabel='"Raw" activations',
        ylabel="Post-GELU activations",
        title="Impact of GELU nonlinear activation",
    )
    return figure


def linear_separation(linear_separation: xr.Dataset) -> Figure:
    """Draw both rings, flat and lifted by their radius; source: project 42, the second demo."""
    figure = Figure(figsize=(12, 5))
    flat = figure.add_axes((0.04, 0.1, 0.42, 0.8))
    # A cube leaves much of its axes empty: they reach beyond the figure's edges, not its data.
    # Matplotlib has no types of axes in 3D.
    lifted: Any = figure.add_axes((0.5, 0.02, 0.5, 0.88), projection="3d")
    lifted.set_box_aspect((1, 1, 0.8), zoom=1.2)
    for ring, (fill, marker) in LOOKS.items():
        x, y, radius = (
            linear_separation[name].sel(ring=ring).values for name in ("x", "y", "radius")
        )
        look: dict[str, Any] = {
            "linestyle": "none",
            "marker": marker,
            "markersize": 9,
            "markerfacecolor": fill,
            "markeredgecolor": ink(),
            "label": ring.capitalize(),
        }
        flat.plot(x, y, **look)
        lifted.plot(x, y, radius, **look)
    flat.axis("square")
    flat.set(xlabel="x", ylabel="y", xticklabels=[], yticklabels=[])
    flat.set(title="A) Non-linearly separable in 2D")
    lifted.set(xlabel="x", ylabel="y", zlabel="Radius", xticklabels=[], yticklabels=[])
    lifted.set(title="B) Linearly separable in 3D")
    for axis in (lifted.xaxis, lifted.yaxis):
        axis.labelpad = -8
    lifted.view_init(20, 20)
    return figure


def weight_product(
    weight_product: xr.Dataset, *, limits: Limits, relative: bool = False, ax: Axes | None = None
) -> Figure:
    """Draw `weight_product` as an image; source: project 42, part 1.

    Args:
        weight_product: the statistic.
        limits: the squares at the ends of the colour scale.
        relative: whether these are multiples of the mean square, since models' weights differ in
            size.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (6, 5), layout="constrained")
    squared = weight_product["squared"].values
    if relative:
        mean = float(squared.mean())
        limits = (limits[0] * mean, limits[1] * mean)
    image = axes.imshow(squared, vmin=limits[0], vmax=limits[1], cmap="viridis")
    extend = colour_bar_ends(squared, limits)
    figure.colorbar(image, ax=axes, extend=extend, label="Squared product")
    first, layer = weight_product.attrs["first"], weight_product.attrs["layer"]
    axes.set(xlabel="Output dimension", ylabel="Input dimension")
    axes.set(title=f"|{first} · W2|², layer {layer}")
    return figure


def weight_histograms(
    weight_histograms: xr.Dataset, *, layer: Layer, ax: Axes | None = None
) -> Figure:
    """Draw one line per matrix of `weight_histograms`; source: project 42, part 1.

    Args:
        weight_histograms: the statistic.
        layer: the layer.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (8, 3), layout="tight")
    limit = weight_histograms.attrs["limit"]
    for matrix in weight_histograms["matrix"].values:
        density = weight_histograms["density"].sel(layer=layer, matrix=matrix).values
        label = f"$\\mathbf{{W_{matrix[1]}}}${matrix[2:]}"
        axes.plot(weight_histograms["value"].values, density, label=label)
    axes.set(xlabel="Weight value", ylabel="Density", xlim=(-limit, limit), ylim=(0, None))
    axes.legend()
    return figure


def weight_profile(weight_histograms: xr.Dataset, *, limits: Limits) -> Figure:
    """Draw one image per matrix of `weight_histograms`; source: project 42, part 1.

    Args:
        weight_histograms: the statistic.
        limits: the densities at the ends of the colour scale.
    """
    titles = [TITLES.get(matrix, matrix) for matrix in weight_histograms["matrix"].values]
    figure = Figure(figsize=(5 * len(titles), 3.5), layout="constrained")
    histogram_images(
        figure,
        titles,
        weight_histograms,
        rows="layer",
        panels="matrix",
        limits=limits,
        xlabel="Weight value",
        ylabel="Layer",
    )
    return figure


def activation_histograms(activation_histograms: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw one line per stage of `activation_histograms`; source: project 42, part 2.

    Args:
        activation_histograms: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (7, 4), layout="tight")
    limit = activation_histograms.attrs["limit"]
    for site, name in zip(
        activation_histograms["site"].values, stage_labels(activation_histograms), strict=True
    ):
        stage = activation_histograms.sel(site=site)
        beyond = stage["beyond"].item()
        left_out = f", {beyond:.0%} beyond" if beyond >= 0.01 else ""
        label = f"{name} (N = {stage['n'].item():,}{left_out})"
        axes.plot(stage["value"].values, stage["density"].values, label=label)
    axes.axvline(0, linestyle="--", color=ink(), linewidth=0.5)
    axes.set(xlabel="Activation value", ylabel="Density", xlim=(-limit, limit), ylim=(0, None))
    axes.legend()
    return figure


def token_histograms(token_histograms: xr.Dataset, *, limits: Limits) -> Figure:
    """Draw one image per stage of `token_histograms`; source: project 42, part 3.

    Args:
        token_histograms: the statistic.
        limits: the densities at the ends of the colour scale.
    """
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    stage_images(figure, token_histograms, rows="position", limits=limits, ylabel="Token position")
    return figure


def activation_profile(activation_profile: xr.Dataset, *, limits: Limits) -> Figure:
    """Draw one image per stage of `activation_profile`; source: project 42, part 4.

    Args:
        activation_profile: the statistic.
        limits: the densities at the ends of the colour scale.
    """
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    stage_images(figure, activation_profile, rows="layer", limits=limits, ylabel="Layer")
    return figure


def tsne(tsne: xr.Dataset) -> Figure:
    """Draw both embeddings and the scatter of `tsne`; source: project 42, part 5."""
    figure = Figure(figsize=(15, 4.5), layout=ConstrainedLayoutEngine(wspace=0.04))
    *maps, scatter = figure.subplots(1, 3)
    sites, embeddings = tsne["site"].values, tsne["embedding"].values
    for axes, embedding, name, site in zip(
        maps, embeddings, ("A) Input", "B) Projection"), sites, strict=True
    ):
        tokens = axes.scatter(
            *embedding.T,
            s=MARKER,
            c=np.arange(len(embedding)),
            marker="h",
            edgecolors=ink(),
            cmap=DEPTH,
        )
        axes.margins(0.15)
        axes.set(xlabel="TSNE dim 1", ylabel="TSNE dim 2", title=f"{name} ({site})")
        figure.colorbar(tokens, ax=axes, pad=0.02, label="Token index", ticks=[])
    x, y = tsne[tsne["pair"].item()].values
    dots(
        *(scatter, x, y, FILL),
        xlabel="Stage 1 (input)",
        ylabel="Stage 4 (projection)",
        title=f"C) Scatter plot (r = {tsne['r'].item():.3f})",
    )
    figure.draw_without_rendering()  # lays out the panels: labels are placed by what is beside them
    labels = [token_label(text) for text in tsne["text"].values]
    for axes, embedding in zip(maps, embeddings, strict=True):
        _label_points(axes, embedding, labels)
    return figure


def _label_points(axes: Axes, places: np.ndarray, labels: Sequence[str]) -> None:
    """Label markers so that no label covers another or a marker, as far as there is room.

    Args:
        axes: where, with its final size and limits.
        places: of the markers, (label, 2).
        labels: their labels.
    """
    radius = np.sqrt(MARKER) / 2 * axes.figure.dpi / 72
    taken = [
        Bbox([centre - radius, centre + radius]) for centre in axes.transData.transform(places)
    ]
    for label, place in zip(labels, places, strict=True):
        text = axes.annotate(
            label, place, (0, 0), textcoords="offset points", fontsize=9, in_layout=False
        )

        def covered(aside: tuple[tuple[float, float], str, str], text: Annotation = text) -> int:
            text.xyann = aside[0]
            text.set(ha=aside[1], va=aside[2])
            box = text.get_window_extent()
            outside = box.x0 < axes.bbox.x0 or box.x1 > axes.bbox.x1
            return box.count_overlaps(taken) + 2 * outside

        covered(min(ASIDE, key=covered))
        taken.append(text.get_window_extent())
