"""Prefixes that texts of a batch share, computed once.

A causal model gives a token the same values after the same tokens, in whatever text they stand.
34 texts "The next word is {word}" have 170 tokens, but only 38 of them differ in themselves or in
what precedes them. The linear layers are nearly all of the work and treat each token on its own, so
they need to compute only those 38.

Both assumptions are tested as the model runs. Tokens after the same tokens have to arrive at a
layer with equal values. And the first layer of each shape computes all tokens as well as the
distinct ones. Only if their bits agree, later layers of that shape compute the distinct ones alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

#: The largest share of distinct tokens at which sharing pays for its copies and comparisons.
WORTHWHILE = 0.75


class Prefixes:
    """The tokens of a batch that differ in themselves or in what precedes them.

    Attributes:
        shape: (batch, position).
        first: where each distinct token occurs first in the flattened batch, (n,).
        which: the number of each token among the distinct ones, (batch × position,).
    """

    def __init__(self, ids: np.ndarray) -> None:
        """Find the distinct tokens.

        Args:
            ids: token ids, (batch, position).
        """
        self.shape = ids.shape
        which = np.empty(ids.shape, dtype=int)
        first: list[np.ndarray] = []
        before, n = np.zeros(len(ids), dtype=int), 0
        for position, tokens in enumerate(ids.T):
            _, texts, which_here = np.unique(
                np.stack([before, tokens]), axis=1, return_index=True, return_inverse=True
            )
            first.append(texts * ids.shape[1] + position)
            which[:, position] = before = which_here.ravel() + n
            n += len(texts)
        self.first = torch.from_numpy(np.concatenate(first))
        self.which = torch.from_numpy(which.ravel())

    @property
    def worthwhile(self) -> bool:
        """Whether sharing saves more than its copies and comparisons cost."""
        return len(self.first) <= WORTHWHILE * len(self.which)


class PrefixSharing:
    """Makes a module's linear layers compute the prefixes that texts share once.

    The results are bit for bit those of computing all tokens.
    """

    def __init__(self, module: nn.Module) -> None:
        """Wrap the linear layers of a module; without prefixes they do what they did before."""
        self._now: Prefixes | None = None
        # Whether distinct rows have the same bits alone as among all rows, by the kind and shape
        # of the layer and both numbers of rows.
        self._exact: dict[tuple[object, ...], bool] = {}
        for layer in module.modules():
            if type(layer) in (nn.Linear, Conv1D):
                layer.forward = partial(self._forward, layer.forward, tuple(layer.weight.shape))

    @contextmanager
    def of(self, prefixes: Prefixes | None) -> Iterator[None]:
        """Share these prefixes until the context ends; None shares nothing."""
        self._now = prefixes if prefixes and prefixes.worthwhile else None
        try:
            yield
        finally:
            self._now = None

    def _forward(
        self, forward: Callable[[Tensor], Tensor], shape: tuple[int, ...], values: Tensor
    ) -> Tensor:
        prefixes = self._now
        if prefixes is None or values.shape[:-1] != prefixes.shape:
            return forward(values)
        rows = values.flatten(0, 1)
        distinct = rows[prefixes.first]
        if not torch.equal(distinct[prefixes.which], rows):
            return forward(values)  # not causal
        # The order in which products are summed, and so the last bits, depends on shapes alone.
        kind = forward.__func__, shape, len(rows), len(distinct)
        if self._exact.get(kind) is False:
            return forward(values)
        shared = forward(distinct)[prefixes.which].unflatten(0, prefixes.shape)
        if kind not in self._exact:
            self._exact[kind] = torch.equal(shared, whole := forward(values))
            return whole
        return shared
