"""Figures of the study on effective dimensionality; see README.md."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from microtome.figures.panels import Look, histogram_line, panel, sparse_ticks
from microtome.figures.style import FILLS, ink
from microtome.options import Count, Limits
from microtome.statistics.layers import hidden_state_label

#: How real and shuffled tokens are drawn, and called.
REAL, SHUFFLED = Look("g", "o", FILLS[1]), Look("r", "s", FILLS[0])
LABELS = {REAL: "Real tokens", SHUFFLED: "Shuffled tokens"}
#: How all tokens, and those without the first ones, are drawn.
TOKENS = {"all": Look("k", "s", FILLS[1]), "rest": Look("k", "o", FILLS[2])}


def concept(concept: xr.Dataset) -> Figure:
    """Draw the points on a line, and beside it; source: project 28, the first demo."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    row = figure.subplots(1, 2)
    titles = ("A) 1-dimensional data", "B) 1 effective dimension")
    x = concept["x"].values
    for axes, kind, fill, title in zip(
        row, concept["kind"].values, (FILLS[0], FILLS[4]), titles, strict=True
    ):
        y = concept["y"].sel(kind=kind).values
        axes.plot(x, y, "o", color=ink(), markerfacecolor=(*fill, 0.5), markersize=10)
        axes.axis("square")
        ends = [0, concept.attrs["length"]]
        axes.plot(ends, ends, color="gray", zorder=-2)
        ratio = concept["participation_ratio"].sel(kind=kind).item()
        axes.set(xlabel=f"x\n(participation ratio {ratio:.3f})", ylabel="y", title=title)
    return figure


def most_likely(
    most_likely: xr.Dataset, shuffled_most_likely: xr.Dataset, *, ax: Axes | None = None
) -> Figure:
    """Draw both histograms; source: project 28, part 1.

    Args:
        most_likely: the statistic of the text.
        shuffled_most_likely: the same of its shuffled tokens.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (9, 3), layout="constrained")
    for data, label, colour, marker, fill in (
        (most_likely, "Real", "b", "s", FILLS[2]),
        (shuffled_most_likely, "Shuffled", "r", "o", FILLS[0]),
    ):
        histogram_line(
            axes,
            data["left_edge"].values,
            data["density"].values,
            color=colour,
            marker=marker,
            markerfacecolor=fill,
            markersize=12,
            linewidth=2,
            label=label,
        )
    axes.set(xlabel="Max log softmax", ylabel="Density", title="Maximum token probabilities")
    axes.legend()
    return figure


def spectrum(spectrum: xr.Dataset, *, limits: Limits, marked: Count) -> Figure:
    """Draw what each component holds, and the components up to it; source: project 28, part 2.

    Args:
        spectrum: the statistic.
        limits: the ends of the horizontal axes.
        marked: the component at which what all tokens' components up to it hold is marked.
    """
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    components = spectrum["component"].values
    labels = {"all": "All tokens", "rest": "Without the first"}
    for axes, name in ((left, "explained"), (right, "cumulative")):
        for tokens, look in TOKENS.items():
            axes.plot(
                components,
                spectrum[name].sel(tokens=tokens).values,
                look.marker,
                color=ink(),
                markersize=8,
                markerfacecolor=(*look.fill, 0.7),
                label=labels[tokens],
            )
        axes.set(xlim=limits, xlabel="Component number")
    held = spectrum["cumulative"].sel(tokens="all")
    if marked in components:
        right.axhline(held.sel(component=marked).item(), linestyle="--", color="gray", zorder=0)
        right.axvline(marked, linestyle="--", color="gray", zorder=0)
    left.set(ylabel="Percent variance explained", title="A) Singular values spectrum")
    right.set(ylabel="Cumulative % variance explained", title="B) Cumulative singular values")
    left.legend(loc="upper right")
    right.legend(loc="lower right", framealpha=1)
    figure.suptitle(_place(spectrum), fontweight="bold")
    return figure


def ranks(
    dimensionality: xr.Dataset, shuffled_dimensionality: xr.Dataset, *, ax: Axes | None = None
) -> Figure:
    """Draw the ranks over the hidden states; source: project 28, part 3.

    Args:
        dimensionality: the statistic of the text.
        shuffled_dimensionality: the same of its shuffled tokens, the first shuffle drawn.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (10, 3), layout="constrained")
    _both(axes, "rank", dimensionality, shuffled_dimensionality)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    axes.set(title="Maximum possible dimensionality")
    return figure


def effective_dimensionality(
    dimensionality: xr.Dataset, shuffled_dimensionality: xr.Dataset
) -> Figure:
    """Draw the component counts, and their share of the ranks; source: project 28, part 3.

    Args:
        dimensionality: the statistic of the text.
        shuffled_dimensionality: the same of its shuffled tokens, the first shuffle drawn.
    """
    figure = Figure(figsize=(12, 4), layout="constrained")
    axes = figure.subplots()
    _both(axes, "n_components", dimensionality, shuffled_dimensionality)
    axes.grid(color=(0.3, 0.3, 0.3), linewidth=0.4)
    axes.set_axisbelow(True)
    axes.set(title="Effective dimensionality")
    shares = axes.twinx()
    for data, look in ((shuffled_dimensionality, SHUFFLED), (dimensionality, REAL)):
        drawn = _drawn(data)
        share = 100 * drawn["n_components"] / drawn["rank"]
        label = f"{LABELS[look].split()[0]}, % (right axis)"
        shares.plot(share.values, linewidth=2, color=look.fill, label=label)
    shares.spines["right"].set_visible(True)
    shares.set(ylabel="% max dimensionality")
    # What is counted lies above what it is a share of.
    axes.set_zorder(shares.get_zorder() + 1)
    axes.patch.set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def participation_ratio(comparison: xr.Dataset) -> Figure:
    """Draw the participation ratios of all tokens and of the rest; beside project 28, part 3."""
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    titles = {"all": "A) All tokens", "rest": "B) Without the first"}
    ratio = comparison.sel(measure="participation_ratio")
    places = np.arange(comparison.sizes["hidden"])
    for axes, (tokens, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        chosen = ratio.sel(tokens=tokens)
        interval = f"{1 - comparison.attrs['alpha']:.0%} interval of a shuffle"
        low, high = chosen["low"].values, chosen["high"].values
        axes.fill_between(places, low, high, color=SHUFFLED.fill, alpha=0.5, label=interval)
        for name, look in (("shuffled", SHUFFLED), ("observed", REAL)):
            axes.plot(
                places,
                chosen[name].values,
                color=look.colour,
                marker=look.marker,
                markerfacecolor=look.fill,
                label=LABELS[look],
            )
        # An interval may reach far beyond all that is measured.
        largest = max(chosen[name].max().item() for name in ("observed", "shuffled"))
        _hidden(axes, comparison, most=8)
        axes.set(yscale="log", ylim=(0.9, 1.5 * largest))
        axes.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), minor_locator=NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set(ylabel="Participation ratio", title=title)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def _both(axes: Axes, name: str, real: xr.Dataset, shuffled: xr.Dataset) -> None:
    """Draw a variable of real and of shuffled tokens over the hidden states."""
    for data, look in ((shuffled, SHUFFLED), (real, REAL)):
        axes.plot(
            _drawn(data)[name].values,
            look.marker,
            color=ink(),
            markersize=min(12, 400 / data.sizes["hidden"]),
            markerfacecolor=(*look.fill, 0.7),
            label=LABELS[look],
        )
    _hidden(axes, real)
    axes.set(ylabel="Number of dimensions")


def _drawn(data: xr.Dataset) -> xr.Dataset:
    """What is drawn of the texts: all tokens of the first."""
    return data.isel(sequence=0).sel(tokens="all")


def _place(spectrum: xr.Dataset) -> str:
    """What the spectrum is of; what enters a block has the name of the hidden state that it is."""
    site, layer = spectrum.attrs["site"], spectrum.attrs["layer"]
    if site != "resid_pre":
        return f"{site} of layer {layer}"
    return f"Hidden state {hidden_state_label(layer - 1)}"


def _hidden(axes: Axes, data: xr.Dataset, most: int = 16) -> None:
    """Label the horizontal axis with the hidden states."""
    sparse_ticks(axes.xaxis, data["hidden"].values, most)
    axes.set(xlabel="Hidden state", xlim=(-1, data.sizes["hidden"]))
