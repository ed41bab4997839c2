"""Tables of the study on the residual stream; see README.md."""

import pandas as pd
import xarray as xr


def output_differences(output_differences: xr.Dataset) -> pd.DataFrame:
    """One row per layer: the difference, both norms, and the mean cosine similarity."""
    return output_differences.to_dataframe().reset_index()


def adjustments(adjustments: xr.Dataset) -> pd.DataFrame:
    """One row per token: correlations, what permuted dimensions give, and p-values."""
    frame = adjustments.to_dataframe().reset_index(drop=True)
    return frame[["position", "text", *adjustments.data_vars]]


def reconstruction(reconstruction: xr.Dataset) -> pd.DataFrame:
    """One row per layer: the errors of the sum, and the norms of its parts."""
    return reconstruction.to_dataframe().reset_index()
