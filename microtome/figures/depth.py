"""Profiles of several models, which differ in their number of layers, on one axis of depth."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from microtome.figures.panels import looks


def depth_profiles(profiles: xr.Dataset, *, label: str) -> Figure:
    """Draw a line for each model over the relative depth of its layers.

    Args:
        profiles: as `microtome.statistics.depth.by_depth` returns it.
        label: what the values are.
    """
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.subplots()
    models = list(dict.fromkeys(profiles["model"].values.tolist()))
    for model, look in zip(models, looks(len(models)), strict=True):
        own = profiles.isel(point=profiles["model"].values == model)
        axes.plot(
            own["depth"].values,
            own["value"].values,
            color=look.colour,
            marker=look.marker,
            markersize=min(7, 150 / own.sizes["point"]),
            markerfacecolor=(*look.fill, 0.7),
            linewidth=1.2,
            label=model,
        )
    axes.set(xlabel="Depth of the layer in its model", ylabel=label, xlim=(-0.02, 1.02))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure
