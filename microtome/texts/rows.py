"""Rows of a token table: the sequences that they make up, and the rows of activation arrays."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike


def sequences(columns: Mapping[str, ArrayLike], name: str = "token_id") -> list[np.ndarray]:
    """A column of a token table cut into sequences, in order, (position,) each.

    Args:
        columns: the token table's columns by name, (token,) each.
        name: the column to cut.
    """
    starts = np.flatnonzero(np.diff(np.asarray(columns["sequence"]), prepend=-1))
    return np.split(np.asarray(columns[name]), starts[1:])


def row_columns(columns: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    """What the rows of activation arrays are: a token each, or the mean of a sequence's tokens.

    Args:
        columns: the token table's columns by name, (token,) each; without `row`, every token has
            its own.

    Returns:
        The columns but `row`, (row,) each. A mean has the labels of its sequence, token -1 and
        position -1.
    """
    columns = {name: np.asarray(values) for name, values in columns.items()}
    if "row" not in columns:
        return columns
    rows = columns.pop("row")
    kept = np.flatnonzero(rows >= 0)
    _, first, count = np.unique(rows[kept], return_index=True, return_counts=True)
    columns = {name: values[kept[first]] for name, values in columns.items()}
    for name in ("token_id", "position"):
        columns[name] = np.where(count > 1, np.int32(-1), columns[name])
    means = np.array([f"mean of {n} tokens" for n in count], dtype=object)
    columns["text"] = np.where(count > 1, means, columns["text"])
    return columns
