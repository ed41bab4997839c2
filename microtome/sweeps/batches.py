"""Batches of texts of one length, and the rows of the activation arrays that they make."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from microtome.texts.lengths import batch_texts
from microtome.texts.rows import sequences


@dataclass(frozen=True)
class Batch:
    """Sequences of one length.

    Attributes:
        rows: for each of their tokens, the row of the activation arrays that it goes into, or -1
            for none; tokens of one row are averaged. (batch, position).
        tokens: for each of their tokens, its row of the token table, (batch, position).
        ids: their token ids, (batch, position).
    """

    rows: np.ndarray
    tokens: np.ndarray
    ids: np.ndarray


def batched(columns: Mapping[str, np.ndarray], batch_tokens: int, least: int = 0) -> list[Batch]:
    """Group the sequences of a token table into batches of one length each: none is padded.

    Args:
        columns: the token table's columns by name, (token,) each; without `row`, every token has
            a row of its own.
        batch_tokens: tokens per batch, at most; a longer sequence is a batch of its own.
        least: tokens per batch, at least; a smaller one is filled with copies of its last
            sequence, whose tokens go into no row.
    """
    ids = sequences(columns)
    everything = {"sequence": columns["sequence"], "row": np.arange(len(columns["token_id"]))}
    tokens = sequences(everything, "row")
    rows = sequences(columns, "row") if "row" in columns else tokens
    lengths = np.array([len(sequence) for sequence in ids])
    batches = []
    for length in np.unique(lengths):
        members = np.flatnonzero(lengths == length)
        size = batch_texts(length, batch_tokens)
        for chosen in np.split(members, range(size, len(members), size)):
            batch = Batch(*(np.stack([of[i] for i in chosen]) for of in (rows, tokens, ids)))
            batches.append(_filled(batch, least))
    return batches


def _filled(batch: Batch, least: int) -> Batch:
    """A batch of so many tokens at least, with copies of its last sequence."""
    n_texts, length = batch.ids.shape
    n_copies = max(0, -(-least // length) - n_texts)
    copies = ((0, n_copies), (0, 0))
    return Batch(
        np.pad(batch.rows, copies, constant_values=-1),
        np.pad(batch.tokens, copies, "edge"),
        np.pad(batch.ids, copies, "edge"),
    )


class RowSelection:
    """What is kept of a batch's tokens: all, some, or means over neighbours.

    Attributes:
        rows: the rows of the activation arrays that are made, ascending, (n,).
    """

    def __init__(self, rows: np.ndarray) -> None:
        """Select rows.

        Args:
            rows: as in `Batch`, (batch, position).
        """
        flat = rows.ravel()
        chosen = np.flatnonzero(flat >= 0)
        self.rows, counts = np.unique(flat[chosen], return_counts=True)
        self._chosen = None if len(chosen) == flat.size else torch.from_numpy(chosen)
        self._counts = None if counts.max(initial=1) == 1 else torch.from_numpy(counts)

    def __call__(self, value: Tensor) -> Tensor:
        """Cut (batch, position, width) down to (n, width)."""
        value = value.flatten(0, 1)
        if self._chosen is not None:
            value = value[self._chosen]
        if self._counts is not None:
            value = torch.segment_reduce(value.float(), "mean", lengths=self._counts, axis=0)
        return value
