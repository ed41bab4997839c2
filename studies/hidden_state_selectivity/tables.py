"""Tables of the study on the selectivity of hidden states; see README.md."""

import pandas as pd
import xarray as xr

from microtome.statistics.corrections import holm
from microtome.store.tables import Table


def next_tokens(next_tokens: xr.Dataset) -> Table:
    """One row per text; in the text each with the token that follows, as the notebook prints them.

    Source: project 25, part 3.
    """
    frame = next_tokens.to_dataframe().reset_index(drop=True)
    lines = [_one_line(a + b) for a, b in zip(frame["sentence"], frame["text"], strict=True)]
    return Table(frame, "\n".join(lines))


def contexts(contexts: xr.Dataset) -> Table:
    """One row per text; in the text, first how often each word occurs.

    Source: project 25, part 4.
    """
    frame = contexts.to_dataframe().reset_index(drop=True)
    counts = frame["category"].value_counts(sort=False)
    lines = [f"{word}: {n} times" for word, n in counts.items()]
    return Table(frame, "\n".join([*lines, "", *map(_one_line, frame["ending"])]))


def selectivity(selectivity: xr.Dataset, selectivity_test: xr.Dataset) -> pd.DataFrame:
    """One row per scale and hidden state, with the p-values of both tests.

    `p_t_test` takes pairs that share a word as independent, as the notebook's t does;
    `p_permutation` does not. `p_holm` is the latter, corrected over the hidden states of a scale.
    """
    half = selectivity["difference"] / 2
    columns = {
        "within": selectivity["average"] + half,
        "across": selectivity["average"] - half,
        "difference": selectivity["difference"],
        "t": selectivity["t"],
        "p_t_test": selectivity["p"],
        "p_permutation": selectivity_test["p"],
        "p_holm": selectivity_test["p"].copy(data=list(map(holm, selectivity_test["p"].values))),
    }
    return xr.Dataset(columns).to_dataframe().reset_index()


def context_histograms(context_histograms: xr.Dataset) -> pd.DataFrame:
    """One row per group of pairs and hidden state: the mean, and the share outside the limits."""
    return context_histograms[["mean", "beyond"]].to_dataframe().reset_index()


def _one_line(text: str) -> str:
    """A text without line breaks."""
    return text.replace("\r", "").replace("\n", "↵")
