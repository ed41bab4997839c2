"""Tables of the study on the logit lens; see README.md."""

import json

import pandas as pd
import xarray as xr

from microtome.store.tables import Table


def readings(predictions: xr.Dataset) -> Table:
    """One row per hidden state, in the place of the chosen token; in the text as printed there.

    Source: project 31, part 3.
    """
    chosen = predictions.drop_vars("vocabulary").isel(token=predictions.attrs["chosen"])
    columns = ["log_probability", "rank", "entropy", "top_log_probability", "top_token_id"]
    frame = chosen[columns].drop_vars(["position", "token_id", "text"]).to_dataframe().reset_index()
    before, after = predictions.attrs["before"], predictions.attrs["after"]
    lines = [
        f"{hidden:>4} lens: {before}{json.dumps(text, ensure_ascii=False)}{after}"
        for hidden, text in zip(frame["hidden"], frame["top_text"], strict=True)
    ]
    return Table(frame, "\n".join(lines))


def predictions(predictions: xr.Dataset) -> pd.DataFrame:
    """One row per token and hidden state."""
    frame = predictions.drop_vars("vocabulary").to_dataframe().reset_index()
    first = ["position", "text", "hidden"]
    rest = [name for name in frame.columns if name not in (*first, "token")]
    return frame.sort_values("token", kind="stable")[[*first, *rest]]


def averages(averages: xr.Dataset) -> pd.DataFrame:
    """One row per hidden state."""
    return averages.to_dataframe().reset_index()


def slopes(slopes: xr.Dataset) -> pd.DataFrame:
    """One row per token, of the target and of the most likely token."""
    frame = slopes.to_dataframe().reset_index()
    first = ["of", "position", "text"]
    rest = [name for name in frame.columns if name not in (*first, "token", "token_id")]
    return frame[[*first, *rest]]
