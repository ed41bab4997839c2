"""Panels that figures share; each draws on axes it is given."""

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from microtome.figures.labels import stage_labels
from microtome.figures.style import DEPTH, FILLS, LINES, MARKERS, ink
from microtome.figures.text import visible


class Look(NamedTuple):
    """How one of several series is drawn: the colour of its line, its marker, its fill colour."""

    colour: str
    marker: str
    fill: tuple[float, float, float]


def looks(n: int) -> list[Look]:
    """Looks for n series; up to 42 are distinct."""
    return [
        Look(LINES[i % len(LINES)], MARKERS[i % len(MARKERS)], FILLS[i % len(FILLS)])
        for i in range(n)
    ]


def panel(
    ax: Axes | None, size: tuple[float, float], *, layout: Literal["tight", "constrained"]
) -> tuple[Figure, Axes]:
    """Find the panel of a figure that is one panel: given axes, or those of a new figure.

    Args:
        ax: axes to draw on, of any figure; None for a new figure.
        size: width and height of a new figure in inches.
        layout: layout engine of a new figure, tight or constrained.

    Returns:
        The figure that the axes are part of, and the axes.
    """
    if ax is not None and (given := ax.get_figure(root=True)):
        return given, ax
    figure = Figure(figsize=size, layout=layout)
    return figure, figure.subplots()


def panel_grid(
    n: int, row: tuple[float, float], *, layout: Literal["tight", "constrained"], columns: int = 3
) -> tuple[Figure, list[Axes]]:
    """Lay out a figure of n panels of equal size, row after row.

    Args:
        n: how many panels.
        row: width and height of a full row in inches; fewer panels make the figure narrower.
        layout: layout engine of the figure, tight or constrained.
        columns: number of panels in a full row.

    Returns:
        The figure and its panels, in the order of reading.
    """
    n_columns, n_rows = min(n, columns), -(-n // columns)
    width, height = row
    figure = Figure(figsize=(width * n_columns / columns, height * n_rows), layout=layout)
    panels = figure.subplots(n_rows, n_columns, squeeze=False).flatten().tolist()
    for empty in panels[n:]:
        empty.remove()
    return figure, panels[:n]


def colour_bar_ends(values: np.ndarray, limits: tuple[float, float]) -> str:
    """The ends of a colour bar that get an arrow, because values lie beyond them.

    Args:
        values: all that is drawn on the colour scale, of any shape.
        limits: the values at the ends of the scale.

    Returns:
        neither, min, max or both, for matplotlib's `extend`.
    """
    # A difference that cannot be seen gets no arrow: cosines of equal vectors may be 1 + 2e-16.
    unseen = 1e-6 * (limits[1] - limits[0])
    below, above = (values < limits[0] - unseen).any(), (values > limits[1] + unseen).any()
    return {(True, True): "both", (True, False): "min", (False, True): "max"}.get(
        (bool(below), bool(above)), "neither"
    )


def heatmap(
    axes: Axes,
    values: np.ndarray,
    limits: tuple[float, float],
    label: str = "",
    *,
    pad: float = 0.01,
    **look: Any,
) -> None:
    """Draw a matrix as an image with a colour bar, by default in magma and the first row lowest.

    Args:
        axes: where, in a figure with constrained layout.
        values: (row, column).
        limits: the values at the ends of the colour scale.
        label: label of the values.
        pad: space before the colour bar, a share of the axes' width.
        look: properties of the image, as matplotlib names them.
    """
    look = {"origin": "lower", "cmap": "magma", "vmin": limits[0], "vmax": limits[1], **look}
    image = axes.imshow(values, aspect="auto", interpolation="nearest", **look)
    extend = colour_bar_ends(values, limits)
    axes.figure.colorbar(image, ax=axes, pad=pad, extend=extend, label=label)


def laminar_profile(
    axes: Axes, layers: np.ndarray, series: Mapping[str, np.ndarray], ylabel: str
) -> None:
    """Draw series over the layers, each a line with its own colour and marker.

    Args:
        axes: where.
        layers: the layers, (layer,).
        series: values by label, (layer,) each.
        ylabel: label of the values.
    """
    for (label, values), look in zip(series.items(), looks(len(series)), strict=True):
        axes.plot(
            layers,
            values,
            color=look.colour,
            marker=look.marker,
            markersize=min(8, 300 / len(layers)),
            markerfacecolor=(*look.fill, 0.7),
            label=label,
        )
    axes.set(xlabel="Transformer layer", ylabel=ylabel)
    axes.locator_params("x", integer=True)
    axes.margins(x=0.02)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def clean_line(axes: Axes, clean: float) -> None:
    """Draw a dashed line at the value of the unchanged model, with a label beside it.

    Args:
        axes: where.
        clean: the value, in the units of the y axis.
    """
    axes.axhline(clean, linestyle="--", color=(0.7, 0.7, 0.7), zorder=-3)
    # Beside the line's end, where no mark can lie.
    axes.annotate(
        f"Clean: {clean:.2f}",
        (1, clean),
        (4, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
    )


def dots(
    axes: Axes, x: np.ndarray, y: np.ndarray, fill: tuple[float, float, float], **labels: str
) -> None:
    """Draw many points as small outlined dots; in an SVG, more than 2,000 are one image.

    Args:
        axes: where.
        x: (point,).
        y: (point,).
        fill: their colour, red, green and blue from 0 to 1.
        labels: labels of the axes and the title, as `Axes.set` names them.
    """
    axes.plot(
        x,
        y,
        ".",
        color=ink(),
        markersize=8,
        markeredgewidth=0.4,
        markeredgecolor=ink(),
        markerfacecolor=(*fill, 0.8),
        rasterized=len(x) > 2000,
    )
    axes.set(**labels)


def depth_colours(n: int, *, first: int = 1) -> np.ndarray:
    """A colour for each of n depths, (n, 4), red, green, blue and opacity from 0 to 1.

    Args:
        n: how many depths.
        first: 0 to begin with the first colour of the map, 1 to end with the last.
    """
    return mpl.colormaps[DEPTH]((np.arange(n) + first) / n)


def marks(
    axes: Axes,
    values: np.ndarray,
    fills: Sequence[Any] | np.ndarray,
    *,
    marker: str = "h",
    size: float = 130,
) -> None:
    """Draw one outlined marker for each value at 0, 1, ….

    Args:
        axes: where.
        values: (value,).
        fills: a colour for each.
        marker: marker, as matplotlib names it.
        size: size of the markers in square points.
    """
    places = np.arange(len(values))
    axes.scatter(places, values, size, c=fills, marker=marker, edgecolors=ink(), zorder=3)


def strips(
    axes: Axes,
    columns: np.ndarray,
    *,
    colours: np.ndarray | None = None,
    marker: str = "o",
    size: float | None = None,
    jitter: float = 0.05,
) -> None:
    """Draw columns of jittered markers at 0, 1, …; in an SVG, more than 2,000 are one image.

    Args:
        axes: where.
        columns: values, (column, value).
        colours: RGBA of the columns, (column, 4); by default those of `depth_colours`.
        marker: marker, as matplotlib names it.
        size: size of the markers in points; by default, smaller the more columns there are.
        jitter: standard deviation of the horizontal jitter; columns are 1 apart.
    """
    if colours is None:
        colours = depth_colours(len(columns))
    random = np.random.default_rng(0)  # the jitter is layout: alike in every run
    for x, (values, colour) in enumerate(zip(columns, colours, strict=True)):
        axes.plot(
            random.normal(x, jitter, len(values)),
            values,
            marker,
            markersize=size or min(8, 300 / len(columns)),
            markeredgewidth=0.3,
            markeredgecolor=ink(),
            markerfacecolor=colour,
            alpha=0.4,
            rasterized=columns.size > 2000,
        )
    axes.margins(x=0.02)


def histogram_line(axes: Axes, left_edges: np.ndarray, heights: np.ndarray, **look: Any) -> None:
    """Draw a histogram as a line over the left edges of its bins.

    Args:
        axes: where.
        left_edges: left edges of the bins, (bin,).
        heights: heights of the bins, (bin,). Bins that pad a row are NaN and not drawn.
        look: properties of the line, as matplotlib names them.
    """
    bins = np.isfinite(heights)
    axes.plot(left_edges[bins], heights[bins], **look)


def sparse_ticks(axis: Axis, labels: Sequence[str] | np.ndarray, most: int) -> None:
    """Label the places 0, 1, … of an axis, or every second, third, … of them, so that all fit.

    Args:
        axis: the axis.
        labels: the label of each place.
        most: the most labels that there is room for.
    """
    places = range(0, len(labels), -(-len(labels) // most))
    axis.set_ticks(places, [labels[place] for place in places])


def token_label(text: str) -> str:
    """A token's text as a label that shows its spaces, line breaks and control characters."""
    return visible(text).replace(" ", "␣").replace("$", r"\$")


def histogram_images(
    figure: Figure,
    titles: Sequence[str],
    histograms: xr.Dataset,
    *,
    rows: str,
    panels: str,
    limits: tuple[float, float],
    xlabel: str,
    ylabel: str,
) -> None:
    """Fill a figure with images whose rows are histograms, on one colour scale.

    Args:
        figure: where, with constrained layout.
        titles: a title for each panel.
        histograms: `density` between ±`limit` and `beyond`, the share outside.
        rows: dimension of the rows of an image.
        panels: dimension of the images.
        limits: the densities at the ends of the colour scale.
        xlabel: label of the values.
        ylabel: label of the rows.
    """
    limit, places = histograms.attrs["limit"], histograms[rows].values
    density = histograms["density"].transpose(panels, rows, "value").values
    beyond = histograms["beyond"].max(rows).values
    row = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for axes, title, image_density, share in zip(row, titles, density, beyond, strict=True):
        image = axes.imshow(
            image_density,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            cmap="magma",
            vmin=limits[0],
            vmax=limits[1],
            extent=(-limit, limit, -0.5, len(places) - 0.5),
        )
        left_out = f"\n(up to {share:.0%} beyond)" if share >= 0.01 else ""
        axes.set(xlabel=xlabel + left_out, title=title)
    row[0].set(ylabel=ylabel)
    row[0].yaxis.set_major_locator(MaxNLocator(integer=True))
    row[0].yaxis.set_major_formatter(
        lambda place, _: str(places[int(place)]) if 0 <= place < len(places) else ""
    )
    extend = colour_bar_ends(density, limits)
    figure.colorbar(image, ax=row, pad=0.01, extend=extend, label="Density")


def stage_images(
    figure: Figure,
    histograms: xr.Dataset,
    *,
    rows: str,
    limits: tuple[float, float],
    ylabel: str,
) -> None:
    """Fill a figure with images of the histograms of the stages of an MLP, in lettered panels.

    Args:
        figure: where, with constrained layout.
        histograms: as in `histogram_images`, along `site`, with the attributes that
            `microtome.figures.labels.stage_labels` reads.
        rows: dimension of the rows of an image.
        limits: the densities at the ends of the colour scale.
        ylabel: label of the rows.
    """
    stages = stage_labels(histograms)
    histogram_images(
        figure,
        [f"{letter}) {stage}" for letter, stage in zip(ascii_uppercase, stages, strict=False)],
        histograms,
        rows=rows,
        panels="site",
        limits=limits,
        xlabel="Activation value",
        ylabel=ylabel,
    )


def cosine_matrices(
    figure: Figure, titles: Sequence[str], matrices: np.ndarray, limits: tuple[float, float]
) -> Sequence[Axes]:
    """Draw matrices of cosine similarity side by side, on one colour scale.

    Args:
        figure: where, with constrained layout.
        titles: a title for each matrix.
        matrices: (matrix, row, column), the first row drawn lowest.
        limits: the similarities at the ends of the colour scale.

    Returns:
        The matrices' axes.
    """
    row = figure.subplots(1, len(titles), squeeze=False)[0]
    for axes, title, matrix in zip(row, titles, matrices, strict=True):
        image = axes.imshow(matrix, cmap="plasma", vmin=limits[0], vmax=limits[1], origin="lower")
        axes.set_title(title)
    extend = colour_bar_ends(matrices, limits)
    figure.colorbar(image, ax=row[-1], label="Cosine similarity", pad=0.02, extend=extend)
    return row
