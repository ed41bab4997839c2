"""Tables of the study on the residual stream; see README.md."""

import pandas as pd
import xarray as xr


def blocks(blocks: xr.Dataset) -> pd.DataFrame:
    """One row per layer: hidden state and output, the errors of the sum, the norms of its parts."""
    return blocks.drop_dims("token").to_dataframe().reset_index()


def adjustments(adjustments: xr.Dataset) -> pd.DataFrame:
    """One row per token: correlations, what permuted dimensions give, and p-values."""
    frame = adjustments.to_dataframe().reset_index(drop=True)
    return frame[["position", "text", *adjustments.data_vars]]
