"""Rows of a token table: the sequences that they make up, and the rows of activation arrays."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr


def token_columns(tokens: "xr.Dataset") -> dict[str, np.ndarray]:
    """The columns of a token table by name, (token,) each."""
    return {str(name): column.values for name, column in tokens.coords.items()}


def sequences(columns: Mapping[str, np.ndarray], name: str = "token_id") -> list[np.ndarray]:
    """Cut a column of a token table into its sequences, in order, (position,) each.

    Args:
        columns: the token table's columns by name, (token,) each.
        name: the column that is cut.
    """
    starts = np.flatnonzero(np.diff(np.asarray(columns["sequence"]), prepend=-1))
    return np.split(np.asarray(columns[name]), starts[1:])


def row_columns(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Describe the rows of activation arrays: each is a token, or the mean of a text's tokens.

    Args:
        columns: the token table's columns by name, (token,) each; without `row`, every token has
            a row of its own, and the columns are returned as they are.

    Returns:
        The columns but `row`, (row,) each. A mean has the labels of its text, token -1 and
        position -1, and is neither `masked` nor `special`. Where only some tokens have a row, three
        columns more tell of the text that a row comes from: `length`, its number of tokens, and,
        for a word in a template, `word_start` and `word_end`, the position of the word's first
        token and one past its last (both -1 if no token belongs to the word).
    """
    of_tokens = {name: np.asarray(values) for name, values in columns.items()}
    if "row" not in of_tokens:
        return of_tokens
    rows = of_tokens.pop("row")
    kept = np.flatnonzero(rows >= 0)
    _, first, count = np.unique(rows[kept], return_index=True, return_counts=True)
    of_tokens |= _of_texts(of_tokens)
    of_rows = {name: values[kept[first]] for name, values in of_tokens.items()}
    no_token = {"token_id": -1, "target_id": -1, "position": -1, "masked": 0, "special": 0}
    for name in no_token.keys() & of_rows.keys():
        values = of_rows[name]
        of_rows[name] = np.where(count > 1, values.dtype.type(no_token[name]), values)
    means = np.array([f"mean of {n} tokens" for n in count], dtype=object)
    of_rows["text"] = np.where(count > 1, means, of_rows["text"])
    return of_rows


def _of_texts(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What some of a text's tokens cannot tell: its length, and where its word stands.

    Args:
        columns: the columns of the whole token table, (token,) each.

    Returns:
        `length` and, where there is `in_word`, `word_start` and `word_end`, (token,) each, int32.
    """
    _, text, lengths = np.unique(columns["sequence"], return_inverse=True, return_counts=True)
    found = {"length": lengths}
    if "in_word" in columns:
        inside = np.flatnonzero(columns["in_word"])
        positions = columns["position"][inside]
        found["word_start"], found["word_end"] = np.full((2, len(lengths)), -1)
        # Of several values for one text, the last one assigned stays.
        found["word_start"][text[inside][::-1]] = positions[::-1]
        found["word_end"][text[inside]] = positions + 1
    return {name: values[text].astype(np.int32) for name, values in found.items()}
