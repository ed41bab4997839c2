"""Tables of the study on noise and scaling; see README.md."""

import json

import numpy as np
import pandas as pd
import xarray as xr

from microtome.store.tables import Table


def predictions(predictions: xr.Dataset) -> Table:
    """One row per run: the most likely token and the target; in the text as the notebook prints it.

    Source: project 27, part 2.
    """
    layer, place = predictions.attrs["layer"], predictions.attrs["target_id"]
    found = predictions["log_probability"]
    frame = predictions[["top_token_id", "top_text", "target_rank"]].to_dataframe()
    frame = frame.drop(columns="text")
    frame.insert(2, "top_log_probability", found.max("token_id").values)
    frame.insert(3, "target_log_probability", found.isel(token_id=place).values)
    target, lines = _quoted(predictions["text"].item()), []
    for run, row in frame.iterrows():
        name = "Clean model" if run == "clean" else f"Model with L{layer} noised"
        lines.append(
            f"{name}: next token is {_quoted(row['top_text'])} with "
            f"{np.exp(row['top_log_probability']):.2%} probability; {target} has "
            f"{np.exp(row['target_log_probability']):.2%} (rank {row['target_rank']})"
        )
    return Table(frame.reset_index(), "\n".join(lines))


def noise_norms(noise_norms: xr.Dataset) -> pd.DataFrame:
    """One row per hidden state: the norm of the difference, and relative norms by token."""
    return noise_norms.to_dataframe().reset_index()


def noised_completions(noised_predictions: xr.Dataset, one_layer_noised: xr.Dataset) -> Table:
    """One row per layer and draw; in the text, what completes the text in the first draw.

    Source: project 27, part 3.
    """
    return _completions(noised_predictions, one_layer_noised)


def noise_averages(noise_averages: xr.Dataset) -> pd.DataFrame:
    """One row per layer and choice of tokens: mean and interval of each measure over the draws."""
    columns = {
        f"{measure}_{name}": noise_averages[name].sel(measure=measure, drop=True)
        for measure in noise_averages["measure"].values
        for name in ("mean", "low", "high")
    }
    columns["changed"] = noise_averages["changed"]
    return xr.Dataset(columns).to_dataframe().dropna(how="all").reset_index()


def scaling_norms(scaling_norms: xr.Dataset) -> pd.DataFrame:
    """One row per hidden state, as in `noise_norms`."""
    return scaling_norms.to_dataframe().reset_index()


def scaled_completions(scaled_predictions: xr.Dataset, one_layer_scaled: xr.Dataset) -> Table:
    """One row per layer; in the text, what completes the text.

    Source: project 27, part 4.
    """
    return _completions(scaled_predictions, one_layer_scaled)


def _completions(found: xr.Dataset, changed: xr.Dataset) -> Table:
    """The most likely token and the target of every case, and the text as each completes it."""
    text = "".join(changed["read_text"].values)
    rows = found.drop_vars(["clean", "clean_top_text", "text"])
    log_probability = rows["log_probability"].to_dataset("token")
    frame = rows.drop_dims("token").merge(log_probability).to_dataframe().reset_index()
    first = found.isel(seed=0) if "seed" in found.dims else found
    lines = [
        f"L{layer:2}: {text}{_quoted(top)}"
        for layer, top in zip(first["layer"].values, first["top_text"].values, strict=True)
    ]
    clean = f"Clean: {text}{_quoted(found['clean_top_text'].item())}"
    return Table(frame, "\n".join([clean, *lines]))


def _quoted(text: str) -> str:
    """A token's text as JSON, so that one that is a line break does not make one."""
    return json.dumps(text, ensure_ascii=False)
