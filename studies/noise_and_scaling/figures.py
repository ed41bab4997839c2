"""Figures of the study on noise and scaling; see README.md."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.ticker import MaxNLocator

from microtome.figures.panels import clean_line, dots, panel, sparse_ticks, token_label
from microtome.figures.style import FILLS, LINES, ink

#: How the target and the maximum are drawn: marker and fill colour.
SERIES = {"target": ("h", FILLS[0]), "maximum": ("s", FILLS[2])}
#: How averages over draws of noise are drawn: colour, and which tokens the noise is in.
AVERAGES = {"all": (LINES[0], "all tokens"), "later": (LINES[1], "all but the first token")}


def clean_prediction(predictions: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw the clean log-probability of every token of the vocabulary; source: project 27, part 1.

    Args:
        predictions: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (10, 3), layout="tight")
    found = predictions["log_probability"].sel(run="clean").values
    place, token = predictions.attrs["target_id"], token_label(predictions["text"].item())
    dots(axes, np.arange(len(found)), found, FILLS[1])
    for line, where in ((axes.axhline, found[place]), (axes.axvline, place)):
        line(where, color=LINES[0], linestyle="--", linewidth=1.2, zorder=3)
    look: dict[str, Any] = {"color": ink(), "markersize": 9, "markerfacecolor": FILLS[0]}
    axes.plot(place, found[place], "h", **look, zorder=4)
    # Beside the line's end, where no dot can lie.
    axes.annotate(
        f"{token}: {found[place]:.2f}",
        (1, found[place]),
        (4, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
    )
    axes.set(xlim=(-150, len(found) + 150), xlabel="Token index", ylabel="Log softmax")
    axes.set(title="Log softmax after the last token, of the whole vocabulary")
    return figure


def noise_norms(noise_norms: xr.Dataset) -> Figure:
    """Draw `noise_norms` over the hidden states; source: project 27, part 2."""
    return _norms(noise_norms, "noised")


def scaling_norms(scaling_norms: xr.Dataset) -> Figure:
    """Draw `scaling_norms` over the hidden states; source: project 27, part 4."""
    return _norms(scaling_norms, "scaled")


def noised_predictions(noised_predictions: xr.Dataset, noise_averages: xr.Dataset) -> Figure:
    """Draw the first draw of noise and averages over all; source: project 27, part 3."""
    figure, panels = _prediction_panels(noised_predictions.isel(seed=0), "Noised")
    for measure, axes in panels.items():
        axes.lines[0].set_label("First draw, all tokens")
        for tokens, (colour, name) in AVERAGES.items():
            chosen = noise_averages.sel(tokens=tokens, measure=measure).dropna("layer")
            layers, low, high = (chosen[end].values for end in ("layer", "low", "high"))
            axes.fill_between(layers, low, high, color=colour, alpha=0.15, linewidth=0)
            label = f"Mean of {noise_averages.attrs['n_draws']} draws, {name}"
            axes.plot(layers, chosen["mean"].values, color=colour, linewidth=1, label=label)
    handles, labels = panels["target"].get_legend_handles_labels()
    marks = tuple(axes.lines[0] for axes in panels.values())
    shown: list[Any] = [marks, *handles[1:]]
    figure.legend(
        shown,
        labels,
        handler_map={tuple: HandlerTuple(ndivide=None)},
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
    return figure


def scaled_predictions(scaled_predictions: xr.Dataset) -> Figure:
    """Draw target and maximum with each block scaled; source: project 27, part 4."""
    return _prediction_panels(scaled_predictions, "Scaled")[0]


def _norms(norms: xr.Dataset, changed: str) -> Figure:
    """Draw norms of differences, whole and relative to the clean norms of single tokens."""
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    hidden, size = norms["hidden"].values, min(12, 320 / norms.sizes["hidden"])
    places = np.arange(len(hidden))
    look: dict[str, Any] = {"linestyle": "none", "color": ink(), "markersize": size}
    left.plot(places, norms["difference"], "h", **look, markerfacecolor=FILLS[0])
    look |= {"markersize": size * 0.7}
    right.plot(places, norms["first"], "^", **look, markerfacecolor=FILLS[2], label="First token")
    label = "Other tokens (mean)"
    right.plot(places, norms["later"], "o", **look, markerfacecolor=FILLS[1], label=label)
    figure.legend(loc="outside lower right", ncols=2, frameon=False)
    layer = norms.attrs["layer"]
    for axes in (left, right):
        axes.axvline(1 + layer, linestyle="--", color=ink(), linewidth=1, zorder=-10)
        axes.axhline(0, linestyle=":", color=ink(), linewidth=1, zorder=-10)
        axes.set(xlabel="Hidden state (model depth)")
        axes.margins(x=0.03)
    sparse_ticks(left.xaxis, hidden, most=16)
    sparse_ticks(right.xaxis, hidden, most=9)
    left.set(ylabel="Norm of difference", title=f"A) Difference with L{layer} {changed}")
    right.set(ylabel="Difference / clean norm", title="B) Relative, by token")
    return figure


def _prediction_panels(found: xr.Dataset, changed: str) -> tuple[Figure, dict[str, Axes]]:
    """Draw target and maximum with each block changed, in two panels of the same limits."""
    figure = Figure(figsize=(13, 3.9), layout="constrained")
    panels = dict(zip(SERIES, figure.subplots(1, 2, sharey=True), strict=True))
    target = token_label(found["text"].item())
    titles = (f'A) Target token "{target}"', "B) Most likely token")
    for (token, axes), title in zip(panels.items(), titles, strict=True):
        marker, fill = SERIES[token]
        chosen = found.sel(token=token)
        axes.plot(
            chosen["layer"].values,
            chosen["log_probability"].values,
            marker,
            color=ink(),
            markersize=min(11, 280 / chosen.sizes["layer"]),
            markerfacecolor=(*fill, 0.7),
            zorder=3,
        )
        clean_line(axes, chosen["clean"].item())
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
        axes.xaxis.set_major_formatter("L{x:.0f}")
        axes.margins(x=0.03)
        axes.tick_params(labelleft=True)
        axes.set(xlabel=f"{changed} transformer block", ylabel="Log softmax", title=title)
    return figure, panels
