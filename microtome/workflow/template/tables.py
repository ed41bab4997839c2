"""Tables of the study on the growth of the residual stream; see README.md."""

import pandas as pd
import xarray as xr


def growth(norms: xr.Dataset) -> pd.DataFrame:
    """One row per layer, with how much its norm exceeds that of the layer before."""
    frame = norms.to_dataframe().reset_index()
    return frame.assign(growth=frame["mean"].diff())
