"""Figures of the study on statistics of a corpus; see README.md."""

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from microtome.figures.panels import looks, panel, sparse_ticks

MOMENTS = {"mean": "Mean", "sd": "Standard deviation", "kurtosis": "Kurtosis"}


def moments(moments: xr.Dataset) -> Figure:
    """Draw mean, standard deviation and kurtosis of `moments` over the layers, a line per site."""
    figure = Figure(figsize=(10, 8), layout="constrained")
    panels = figure.subplots(len(MOMENTS), 1, sharex=True)
    for axes, (name, label) in zip(panels, MOMENTS.items(), strict=True):
        for site in moments["site"].values:
            axes.plot(moments["layer"], moments[name].sel(site=site), "o-", label=site)
        axes.set(ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    panels[-1].set_yscale("log")  # a normal distribution has 3, outlying neurons bring thousands
    panels[-1].set(xlabel="Transformer layer")
    return figure


def quantiles(quantiles: xr.Dataset) -> Figure:
    """Draw `quantiles` over the layers, a panel per site and a line per share of the values."""
    sites = quantiles["site"].values
    figure = Figure(figsize=(10, 3.5 * len(sites)), layout="constrained")
    panels = figure.subplots(len(sites), 1, sharex=True, squeeze=False)[:, 0]
    shares = quantiles["share"].values
    for axes, site in zip(panels, sites, strict=True):
        for share, look in zip(shares, looks(len(shares)), strict=True):
            values = quantiles["quantile"].sel(site=site, share=share)
            label = f"{100 * share:g}%"
            axes.plot(quantiles["layer"], values, f"{look.marker}-", color=look.colour, label=label)
        axes.set(yscale="symlog", ylabel=f"Activation ({site})")  # outliers beside the bulk
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, reverse=True)
    panels[-1].set(xlabel="Transformer layer")
    return figure


def spaces(spaces: xr.Dataset) -> Figure:
    """Draw how many dimensions sites take up, and how alike pairs of sites are, over the layers."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    measures = {"participation_ratio": "Participation ratio", "cka": "CKA"}
    shown = [name for name in measures if name in spaces]
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, shown, strict=True):
        (of,) = set(spaces[name].dims) - {"layer"}  # sites or pairs
        for label in spaces[of].values:
            axes.plot(spaces["layer"], spaces[name].sel({of: label}), "o-", label=label)
        axes.set(ylabel=measures[name], ylim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    panels[-1].set(xlabel="Transformer layer")
    return figure


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
    axes.set(xlabel="Transformer block", ylabel="Attention head")
    return figure
