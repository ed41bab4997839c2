"""Tables of the study on similarities of hidden states; see README.md."""

import pandas as pd
import xarray as xr

from microtome.store.tables import Table


def distance_correlation(distance_correlation: xr.Dataset) -> Table:
    """One row per token; the text begins with the mean of all but the first ones."""
    names = ["rho", "low", "high", "without_last"]
    frame = distance_correlation[names].to_dataframe().reset_index(drop=True)
    frame = frame[["position", "text", *names]]
    known = distance_correlation
    level = f"{1 - known.attrs['alpha']:.0%}"
    lines = [
        "Rank correlation of similarity with distance, over all pairs of hidden states of a token:",
        f"mean {known['mean'].item():.3f} from token {known.attrs['first_token']} on, {level} "
        f"interval {known['mean_low'].item():.3f} to {known['mean_high'].item():.3f} if tokens "
        "were independent,",
        "which those of one text are not.",
        "",
        frame.to_string(index=False, float_format="%.3f"),
    ]
    return Table(frame, "\n".join(lines))


def similarity_controls(similarity_controls: xr.Dataset) -> pd.DataFrame:
    """One row per hidden state: mean similarities of two tokens, without what all share."""
    return similarity_controls.to_dataframe().reset_index()


def layer_descriptives(layer_descriptives: xr.Dataset) -> pd.DataFrame:
    """One row per hidden state: averages over tokens, and the correlation of mean and sd."""
    return layer_descriptives.to_dataframe().reset_index()
