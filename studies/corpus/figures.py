"""Figures of the study on statistics of a corpus; see README.md."""

import xarray as xr
from matplotlib.figure import Figure

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
