"""What the figures of the study on the growth of the residual stream say of a model."""

import xarray as xr

from microtome.page.numbers import peak, spread


def growth(norms: xr.Dataset) -> str:
    """The range of the mean norm, and where it is largest."""
    return f"The mean norm is {spread(norms['mean'], 1)}, largest in {peak(norms['mean'], 1)}."
