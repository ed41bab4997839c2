"""Statistics of the study on norms of attention's updates; see README.md."""

from typing import Annotated

import xarray as xr

from microtome.options import ALL_TOKENS, Alpha, FirstPosition, Layer, Site
from microtome.statistics import norms as of_norms
from microtome.statistics import regression as least_squares


def norms(section: xr.Dataset, *, site: Site) -> xr.Dataset:
    """Log norms of what a site holds of each token, for every layer.

    Returns:
        `log_norm`, (`token`,) of the one layer, natural logarithm, float64.
    """
    return of_norms.log_norms(section, site)


def norm_histograms(norms: xr.Dataset, *, first_token: FirstPosition) -> xr.Dataset:
    """Histograms of the log norms of each layer.

    Returns:
        `count` over `left_edge`, (`layer`, `bin`), padded with NaN; attribute `first_token`.
    """
    return of_norms.norm_histograms(norms, first_token)


def regression(
    norms: Annotated[xr.Dataset, ALL_TOKENS], *, layer: Layer, first_token: FirstPosition
) -> xr.Dataset:
    """Each token's log norm predicted from those of the two tokens before it, at one layer.

    Returns:
        `beta`, `std_error`, `t`, `p` and more, (`term`,), `r_squared` and a `summary`: all that
        `microtome.statistics.regression.regression` names.
    """
    found = least_squares.regression(norms.sel(layer=layer), first_token)
    return found.assign_attrs(layer=layer)


def autoregression(
    norms: Annotated[xr.Dataset, ALL_TOKENS], *, first_token: FirstPosition, alpha: Alpha
) -> xr.Dataset:
    """Each token's log norm predicted from those of the two tokens before it, for every layer.

    Returns:
        The same of each layer, (`layer`, `term`), without the constant, and `significant`, 0 or 1.
    """
    return least_squares.autoregression(norms, first_token, alpha)
