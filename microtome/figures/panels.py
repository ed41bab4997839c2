"""Panels that figures share; each draws on axes it is given."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from microtome.figures.style import FILLS, LINES, ink


def laminar_profile(
    axes: Axes, layers: Sequence[int], series: Mapping[str, np.ndarray], ylabel: str
) -> None:
    """Draw up to three series over the layers, each a line with its own colour and marker.

    Args:
        axes: where.
        layers: the layers, (layer,).
        series: label: values, (layer,).
        ylabel: what the values are.
    """
    for (label, values), (colour, marker), fill in zip(series.items(), LINES, FILLS, strict=False):
        axes.plot(
            layers,
            values,
            color=colour,
            marker=marker,
            markersize=8,
            markerfacecolor=(*fill, 0.7),
            label=label,
        )
    axes.set(xlabel="Transformer layer", ylabel=ylabel)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.margins(x=0.02)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def dots(
    axes: Axes, x: np.ndarray, y: np.ndarray, fill: tuple[float, float, float], **labels: str
) -> None:
    """Draw many points as small outlined dots; in an SVG they are one image."""
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
