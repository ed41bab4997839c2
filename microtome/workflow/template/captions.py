"""What the figures of the study on the growth of the residual stream say of a model, in numbers."""

import xarray as xr

from microtome.page.numbers import number, peak


def growth(norms: xr.Dataset) -> str:
    """Where the norm is largest."""
    mean = norms["mean"]
    return f"The mean norm is {number(mean[0])} after the first block, and largest in {peak(mean)}."
