"""Tables of the study on silenced heads; see README.md."""

import json

import numpy as np
import pandas as pd
import xarray as xr

from microtome.store.tables import Table


def similarity_change(similarity_change: xr.Dataset) -> pd.DataFrame:
    """One row per layer, with the standard error of the mean that knows of shared tokens."""
    columns = ["mean", "mean_absolute", "sd", "std_error"]
    return similarity_change[columns].to_dataframe().reset_index()


def next_tokens(next_tokens: xr.Dataset) -> Table:
    """One row per run and token, the most likely first; in the text as the notebook prints them.

    Source: project 40, part 4.
    """
    head, layer = (next_tokens.attrs[f"silenced_{name}"] for name in ("head", "layer"))
    runs = {"clean": "Clean", "silenced": f"Head {head} of layer {layer} silenced"}
    lines = []
    for run, title in runs.items():
        chosen = next_tokens.sel(run=run)
        texts, first = list(map(_quoted, chosen["text"].values)), chosen["log_probability"][0]
        lines += [
            f"{title}: the next token is {texts[0]} with {np.exp(first.item()):.3%}",
            f"Top {len(texts)}: {', '.join(texts)}",
            "",
        ]
    return Table(next_tokens.to_dataframe().reset_index(), "\n".join(lines))


def one_head(one_head: xr.Dataset) -> Table:
    """One row per layer; in the text as the notebook prints them.

    Source: project 40, part 4.
    """
    head, frame = one_head.attrs["head"], one_head.drop_vars("clean").to_dataframe().reset_index()
    lines = [
        f"The next token is {_quoted(text)} with {np.exp(log_probability):.3%} "
        f"(silenced L{layer}:H{head})"
        for layer, text, log_probability in zip(
            frame["layer"], frame["text"], frame["log_probability"], strict=True
        )
    ]
    return Table(frame, "\n".join(lines))


def each_head(each_head: xr.Dataset) -> Table:
    """One row per head, that of the largest divergence first; in the text, how many heads matter.

    `share` is a head's part of the sum of all divergences.
    """
    target = each_head["text"].item()
    frame = each_head.drop_vars(["clean", "text", "token_id"]).to_dataframe().reset_index()
    frame = frame.sort_values("kl", ascending=False, kind="stable")
    frame["share"] = frame["kl"] / frame["kl"].sum()
    half = int(np.searchsorted(frame["share"].cumsum(), 0.5)) + 1
    fell, rose = int((frame["target"] < 0).sum()), int((frame["maximum"] > 0).sum())
    changed = int((frame["top_token_id"] != each_head["token_id"].item()).sum())
    shown = frame.head(10).assign(top_text=frame["top_text"].map(_quoted))
    lines = [
        f"Of {len(frame)} heads, each silenced alone:",
        f"{changed} make another token than {_quoted(target)} the most likely one",
        f"{fell} lower the target's log-probability (mean {frame['target'].mean():+.3f}, "
        f"mean size {frame['target'].abs().mean():.3f})",
        f"{rose} raise that of the most likely token (mean {frame['maximum'].mean():+.3f})",
        f"{half} hold half of the sum of all divergences, {frame['kl'].sum():.3f} nats",
        "",
        "The ten of the largest divergence:",
        shown.to_string(index=False, float_format="%.4f"),
    ]
    return Table(frame, "\n".join(lines))


def layer_averages(layer_averages: xr.Dataset) -> pd.DataFrame:
    """One row per layer: of target and maximum, the mean over heads, spread and interval."""
    averages = layer_averages[["mean", "sd", "low", "high"]].to_dataframe().unstack("token")
    averages.columns = [f"{token}_{name}" for name, token in averages.columns]
    whole = layer_averages[["kl", "changed"]].to_dataframe()
    return averages.join(whole).reset_index()


def _quoted(text: str) -> str:
    """A token's text as JSON, so that one that is a line break does not make one."""
    return json.dumps(text, ensure_ascii=False)
