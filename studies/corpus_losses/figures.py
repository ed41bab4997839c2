"""Figures of the study on the losses of a corpus; see README.md."""

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from microtome.figures.panels import panel


def losses(losses: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw entropy and loss of the predictions over the layers.

    Args:
        losses: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (10, 4), layout="constrained")
    for name, label in (("loss", "Loss of the next token"), ("entropy", "Entropy")):
        axes.plot(losses["layer"], losses[name], "o-", label=label)
    axes.xaxis.set_major_locator(FixedLocator(losses["layer"].values.tolist(), nbins=16))
    highest = max(losses["loss"].max().item(), losses["entropy"].max().item())
    axes.set(xlabel="Transformer layer", ylabel="Nats", ylim=(0, 1.05 * highest))
    axes.legend(frameon=False)
    return figure
