"""What the figures of the study on norms of attention's updates say of a model, in numbers."""

import xarray as xr

from microtome.page.numbers import listed, number, peak, spread
from microtome.statistics.positions import from_position


def norms(norms: xr.Dataset, norm_histograms: xr.Dataset) -> str:
    """Mean log norms from the first layer to the last, and the extremes."""
    rest = from_position(norms, norm_histograms.attrs["first_token"])["log_norm"]
    mean = rest.mean("token")
    return (
        f"The mean log norm is {number(mean[0])} in the first layer, {number(mean[-1])} in the "
        f"last; it is least in {peak(mean, lowest=True)}, largest in {peak(mean)}."
    )


def autoregression(autoregression: xr.Dataset) -> str:
    """In how many layers each term is significant, and how much is explained."""
    n, counts = autoregression.sizes["layer"], autoregression["significant"].sum("layer")
    terms = [f"{int(counts.sel(term=t))} ({t.replace('-', '−')})" for t in counts["term"].values]
    return (
        f"Significant in {listed(terms)} of {n} layers; $R^2$ is "
        f"{spread(autoregression['r_squared'])}."
    )
