"""Figures of the study on statistics of a corpus; see README.md."""

from collections.abc import Hashable

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from microtome.figures.panels import depth_colours, looks, panel, sparse_ticks
from microtome.figures.style import ink

MOMENTS = {"mean": "Mean", "sd": "Standard deviation", "kurtosis": "Kurtosis"}


def moments(moments: xr.Dataset) -> Figure:
    """Draw mean, standard deviation and kurtosis of `moments` over the layers, a line per site."""
    figure, panels = _panels(len(MOMENTS), 8, moments)
    for axes, (name, label) in zip(panels, MOMENTS.items(), strict=True):
        _lines(axes, moments[name], "site")
        axes.set(ylabel=label)
    mean, sd, kurtosis = panels
    mean.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    sd.set_yscale("log")  # outlying neurons make some layers a hundred times as wide as others
    kurtosis.set_yscale("log")
    kurtosis.set_ylim(bottom=1)  # no distribution has less
    kurtosis.axhline(3, linestyle="--", color="gray", zorder=0)
    kurtosis.annotate(
        "Normal: 3", (1, 3), (4, 0), ("axes fraction", "data"), "offset points", va="center"
    )
    return figure


def quantiles(quantiles: xr.Dataset) -> Figure:
    """Draw `quantiles` over the layers, a panel per site and a line per share of the values."""
    sites, shares = quantiles["site"].values, quantiles["share"].values
    figure, panels = _panels(len(sites), 3.5 * len(sites), quantiles)
    for axes, site in zip(panels, sites, strict=True):
        for share, colour in zip(shares, depth_colours(len(shares)), strict=True):
            axes.plot(
                quantiles["layer"],
                quantiles["quantile"].sel(site=site, share=share),
                "o-",
                color=colour,
                markeredgecolor=ink(),
                markeredgewidth=0.4,
                label=f"{100 * share:g}%",
            )
        axes.set(yscale="symlog", ylabel=f"Activation ({site})")  # outliers beside the bulk
    panels[0].legend(
        title="Quantile", loc="upper left", bbox_to_anchor=(1, 1), frameon=False, reverse=True
    )
    return figure


def spaces(spaces: xr.Dataset) -> Figure:
    """Draw how many dimensions sites take up, and how alike pairs of sites are, over the layers."""
    measures = {"participation_ratio": "Participation ratio", "cka": "CKA"}
    shown = [name for name in measures if name in spaces]
    figure, panels = _panels(len(shown), 3 * len(shown), spaces)
    for axes, name in zip(panels, shown, strict=True):
        (of,) = set(spaces[name].dims) - {"layer"}  # sites or pairs
        _lines(axes, spaces[name], of)
        axes.set(ylabel=measures[name], ylim=(0, 1.05))
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    largest = spaces["participation_ratio"].max().item()
    panels[0].set(yscale="log", ylim=(0.9, 1.5 * largest))  # outliers leave 1 of hundreds
    panels[0].yaxis.set_major_formatter("{x:g}")
    return figure


def _panels(n: int, height: float, statistic: xr.Dataset) -> tuple[Figure, list[Axes]]:
    """Panels below each other, over the layers of a statistic."""
    figure = Figure(figsize=(10, height), layout="constrained")
    panels = figure.subplots(n, 1, sharex=True, squeeze=False)[:, 0].tolist()
    # At layers that there are, also where there are only some.
    panels[-1].xaxis.set_major_locator(FixedLocator(statistic["layer"].values.tolist(), nbins=16))
    panels[-1].set(xlabel="Transformer layer")
    return figure, panels


def _lines(axes: Axes, values: xr.DataArray, dimension: Hashable) -> None:
    """Draw a line over the layers for each place along a dimension, with a marker of its own."""
    labels = values[dimension].values
    for label, look in zip(labels, looks(len(labels)), strict=True):
        line = values.sel({dimension: label})
        axes.plot(line["layer"], line, f"{look.marker}-", label=label)


def entropies(entropies: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw the mean of `entropies` over all tokens as an image, heads by layers.

    Args:
        entropies: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (10, 4), layout="constrained")
    mean = entropies["entropy"].weighted(entropies["n"]).mean("position")
    image = axes.imshow(
        mean.transpose("n_heads", "layer"),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        vmin=0,
    )
    figure.colorbar(image, ax=axes, pad=0.02, label="Entropy (nats)")
    axes.spines[["top", "right"]].set_visible(True)
    sparse_ticks(axes.xaxis, [f"L{layer}" for layer in mean["layer"].values], most=16)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="Transformer layer", ylabel="Attention head")
    return figure
