"""Figures of the study on the growth of the residual stream; see README.md."""

import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.panels import laminar_profile


def growth(norms: xr.Dataset) -> Figure:
    """Draw the mean norm over the layers."""
    figure = Figure(figsize=(8, 3), layout="tight")
    series = {"Mean": norms["mean"].values, "Standard deviation": norms["sd"].values}
    laminar_profile(figure.subplots(), norms["layer"].values, series, "Norm")
    return figure
