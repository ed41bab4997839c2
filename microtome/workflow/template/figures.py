"""Figures of the study on the growth of the residual stream; see README.md."""

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from microtome.figures.panels import laminar_profile, panel


def growth(norms: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw the mean norm over the layers."""
    figure, axes = panel(ax, (8, 3), layout="tight")
    series = {"Mean": norms["mean"].values, "Standard deviation": norms["sd"].values}
    laminar_profile(axes, norms["layer"].values, series, "Norm")
    return figure
