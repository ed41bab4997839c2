"""Tables of the study on patching in indirect object identification; see README.md."""

import json

import pandas as pd
import xarray as xr

from microtome.store.tables import Table


def changed_tokens(changed_tokens: xr.Dataset) -> Table:
    """One row per token, the most changed first; in the text as the notebook prints them.

    Source: project 32, part 2.
    """
    frame = changed_tokens.to_dataframe().reset_index()
    lines = [
        f"Δ (C-P) = {difference:6.3f} for {json.dumps(text, ensure_ascii=False)}"
        for text, difference in zip(frame["text"], frame["difference"], strict=True)
    ]
    return Table(frame, "\n".join(lines))


def ioi_scores(ioi_scores: xr.Dataset, confirmation: xr.Dataset) -> pd.DataFrame:
    """One row per pair of texts and layer: score, effect, and the two confirmations.

    Source: project 32, part 3.
    """
    frame = ioi_scores[["score", "effect"]].to_dataframe().reset_index()
    for place in ("before", "last"):
        frame[f"distance_{place}"] = confirmation["distance"].sel(place=place).values.ravel()
    texts = {text: frame[f"{text}_text"] for text in ("receiver", "giver")}
    columns = ["layer", "score", "effect", "distance_before", "distance_last"]
    return pd.DataFrame(texts | {name: frame[name] for name in columns})


def simulated_fit(simulated_fit: xr.Dataset) -> pd.DataFrame:
    """One row per parameter: its true value, the estimate, and the estimate's interval.

    Source: project 32, part 4.
    """
    columns = ["truth", "estimate", "std_error", "low", "high"]
    return simulated_fit[columns].to_dataframe()[columns].reset_index()


def score_fits(score_fits: xr.Dataset, name_fits: xr.Dataset) -> pd.DataFrame:
    """One row per pair of texts and parameter: the estimate and its interval, by the residuals.

    Beside it the mean estimate with other names, its interval over these, and how many there are.
    """
    columns = ["estimate", "std_error", "low", "high", "r_squared", "residual_autocorrelation"]
    frame = score_fits[columns].to_dataframe().reset_index()
    texts = {text: frame[f"{text}_text"] for text in ("receiver", "giver")}
    repeated = xr.where(score_fits["receiver"] % 2 == 0, "first", "second")
    others = name_fits[["mean", "low_mean", "high_mean", "n"]].sel(repeated=repeated)
    names = {
        f"names_{str(name).removesuffix('_mean')}": others[name]
        .broadcast_like(score_fits["estimate"])
        .values.ravel()
        for name in others
    }
    own = {name: frame[name] for name in ("parameter", *columns)}
    return pd.DataFrame(texts | own | names)
