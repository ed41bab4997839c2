"""Statistics of the study on the growth of the residual stream; see README.md."""

import numpy as np
import xarray as xr

from microtome.options import FirstPosition, Site
from microtome.statistics.positions import from_position


def norms(section: xr.Dataset, *, site: Site, first_token: FirstPosition = 0) -> xr.Dataset:
    """Mean and standard deviation of the tokens' norms, for every layer."""
    vectors = from_position(section, first_token)[site].values
    norm = np.linalg.norm(vectors.reshape(len(vectors), -1), axis=1)
    return xr.Dataset({"mean": norm.mean(), "sd": norm.std()})
