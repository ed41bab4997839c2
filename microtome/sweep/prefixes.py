"""Prefixes that texts of a batch share, computed once.

A causal model gives a token the same values after the same tokens, in whatever text they stand. In
34 times "The next word is {word}", 38 of 170 tokens differ in what they follow, and the linear
layers, which are nearly all of the work and treat each token on its own, need no more than those.

Nothing is taken on trust: equal tokens have to arrive at a layer with equal values, and the first
layer of each shape computes all tokens and some, and only if the bits agree are some enough.
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
        first: of each distinct one, the place of its first occurrence, (n,).
        which: for each token, which of them it is, (batch × position,).
    """

    def __init__(self, ids: np.ndarray) -> None:
        """Find them.

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
        """Whether there are few enough."""
        return len(self.first) <= WORTHWHILE * len(self.which)


class PrefixSharing:
    """Has a module's linear layers compute what the texts of a batch share once.

    The result is that of all tokens, bit for bit.
    """

    def __init__(self, module: nn.Module) -> None:
        """Take over the linear layers beneath a module; without prefixes they are as they were."""
        self._now: Prefixes | None = None
        # Of each kind and shape of layer, and number of rows: whether some have the bits of all.
        self._exact: dict[tuple[object, ...], bool] = {}
        for layer in module.modules():
            if type(layer) in (nn.Linear, Conv1D):
                layer.forward = partial(self._forward, layer.forward, tuple(layer.weight.shape))

    @contextmanager
    def of(self, prefixes: Prefixes | None) -> Iterator[None]:
        """Until the end of the context, the module runs a batch with these prefixes."""
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
