"""Tables of the study on dimension reduction; see README.md."""

import pandas as pd
import xarray as xr

from microtome.store.tables import Table


def ranks(picture_reductions: xr.Dataset, hidden_state: xr.Dataset) -> Table:
    """One row per matrix: its rank; in the text as the notebook prints them.

    Source: project 29, parts 1 and 2.
    """
    counts = picture_reductions["n_components"].values
    held = picture_reductions["held"].values
    of_picture, n = picture_reductions["rank"].values, hidden_state["n_components"].item()
    rows = [
        ("picture", picture_reductions["full_rank"].item(), None, None),
        ("picture, components", of_picture[0], counts[0], held[0]),
        ("picture, percent", of_picture[1], counts[1], held[1]),
        ("hidden state", hidden_state["rank"].item(), None, None),
        ("hidden state, reduced", hidden_state["reduced_rank"].item(), n, None),
    ]
    frame = pd.DataFrame(rows, columns=["matrix", "rank", "n_components", "held"])
    lines = [f"Rank of the {matrix}: {rank}" for matrix, rank, *_ in rows]
    return Table(frame.astype({"rank": int, "n_components": "Int64"}), "\n".join(lines))


def one_layer(one_layer: xr.Dataset) -> pd.DataFrame:
    """One row per layer: norms of the differences, with and without the first token."""
    frame = one_layer[["difference", "relative"]].to_dataframe().unstack("tokens")
    frame.columns = [f"{tokens}_{name}" for name, tokens in frame.columns]
    return frame.reset_index()


def each_layer(each_layer: xr.Dataset) -> pd.DataFrame:
    """One row per run and layer that is reduced."""
    counts = each_layer[["n_components", "part_of_components"]].rename(tokens="run")
    effects = each_layer.drop_dims("tokens").drop_vars("clean_loss")
    frame = effects.to_dataframe().dropna().join(counts.to_dataframe())
    return frame.reset_index().assign(clean_loss=each_layer["clean_loss"].item())
