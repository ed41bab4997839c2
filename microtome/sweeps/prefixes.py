"""Tokens of a batch that are known to have equal values, computed once.

A causal model gives a token the same values after the same tokens, in whatever text they stand.
34 texts "The next word is {word}" have 170 tokens, but only 38 of them differ in themselves or in
what precedes them. The linear layers are nearly all of the work and treat each token on its own, so
they need to compute only those 38. Likewise, an intervention reaches no token before the first one
that it changes.

Nothing is shared unless the first block is causal (`MappedModel.is_causal`). The rest is tested as
the model runs. At the first use of each layer of a block, tokens of one class have to arrive with
equal values: elsewhere the model is not causal, and all is computed.
The first layer of each shape computes all tokens as well as the distinct ones. Only if their bits
agree, layers of that shape compute the distinct ones alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

#: The largest share of distinct tokens at which sharing pays for its copies.
WORTHWHILE = 0.75
#: Rows per thread from which on a row's bits do not depend on how many rows there are: matrix
#: products of fewer are summed in another order. Seen with MKL, of any shape: 4, and 6 with two
#: threads.
STEADY = 8
#: What computes each token on its own and is worth it: GPT-2's GELU goes over its values eight
#: times. Other activation functions are fast; the last bits of SiLU depend on how many values
#: there are.
SHARED = (nn.Linear, Conv1D, NewGELUActivation)


def prefix_classes(ids: np.ndarray) -> np.ndarray:
    """Number the tokens of a batch that differ in themselves or in what precedes them.

    Args:
        ids: token ids, (batch, position).

    Returns:
        A number for each token, (batch, position): that of another one after the same tokens, or
        the next one, position by position.
    """
    which = np.empty(ids.shape, dtype=int)
    before, n = np.zeros(len(ids), dtype=int), 0
    for position, tokens in enumerate(ids.T):
        _, which_here = np.unique(np.stack([before, tokens]), axis=1, return_inverse=True)
        which[:, position] = before = which_here.ravel() + n
        n = before.max() + 1
    return which


class Distinct:
    """The tokens of a batch that have values of their own.

    Attributes:
        shape: (batch, position).
        first: where each of them occurs first in the flattened batch, (n,).
        which: the number of each token among them, (batch × position,).
    """

    def __init__(self, classes: np.ndarray) -> None:
        """Find them.

        Args:
            classes: a number for each token, (batch, position), equal where values are equal.
        """
        self.shape = classes.shape
        _, first, which = np.unique(classes, return_index=True, return_inverse=True)
        self.first, self.which = torch.from_numpy(first), torch.from_numpy(which.ravel())

    def only(self, needed: np.ndarray) -> "Distinct":
        """Those of some tokens; others are given the values of one of these.

        Args:
            needed: which tokens' values are needed, (batch, position).
        """
        those = torch.unique(self.which[torch.from_numpy(needed.ravel())])
        new = torch.zeros(len(self.first), dtype=torch.long)
        new[those] = torch.arange(len(those))
        found = object.__new__(Distinct)
        found.shape, found.first, found.which = self.shape, self.first[those], new[self.which]
        return found

    @property
    def worthwhile(self) -> bool:
        """Whether sharing saves more than its copies cost."""
        return len(self.first) <= WORTHWHILE * len(self.which)


class Sharing:
    """Makes a module's layers compute once what tokens share.

    The results are bit for bit those of computing all tokens.
    """

    def __init__(self, module: nn.Module) -> None:
        """Wrap the layers of a module; outside of `of` they do what they did before."""
        self._now: Distinct | None = None
        self._late: Distinct | None = None
        self._late_layers: frozenset[str] = frozenset()
        self._steady = False
        self._causal = True
        self._seen: set[str] = set()
        # Whether distinct rows have the same bits alone as among all rows, by the kind and shape
        # of the layer.
        self._exact: dict[tuple[object, ...], bool] = {}
        for name, layer in module.named_modules():
            if type(layer) in SHARED:
                kind = type(layer), tuple(getattr(layer, "weight", torch.empty(0)).shape)
                in_block = name.partition(".")[2]
                layer.forward = partial(self._forward, layer.forward, in_block, kind)

    @contextmanager
    def of(
        self,
        distinct: Distinct | None,
        *,
        steady: bool = False,
        late: Distinct | None = None,
        late_layers: frozenset[str] = frozenset(),
    ) -> Iterator[None]:
        """Share the values of a batch's tokens until the context ends; None shares nothing.

        Args:
            distinct: the tokens that have values of their own.
            steady: whether a token's bits are to be the same in a batch of any size, rather than
                those of this batch where it is small.
            late: the tokens that some layers compute alone; what they give for the others means
                nothing.
            late_layers: the names of these layers in their block.
        """
        self._now, self._steady = distinct, steady
        self._late, self._late_layers = late, late_layers
        try:
            yield
        finally:
            self._now = self._late = None

    def switch(self, distinct: Distinct | None, late: Distinct | None) -> None:
        """Share other tokens from here on, in the middle of the block that runs."""
        self._now, self._late = distinct, late

    def _forward(
        self,
        forward: Callable[[Tensor], Tensor],
        name: str,
        kind: tuple[object, ...],
        values: Tensor,
    ) -> Tensor:
        distinct = self._now
        if distinct is None or values.shape[:-1] != distinct.shape:
            return forward(values)
        rows = values.flatten(0, 1)
        least = STEADY * torch.get_num_threads()
        if len(rows) < least:
            return (
                self._filled(forward, rows, least).unflatten(0, distinct.shape)
                if self._steady
                else forward(values)
            )
        if not self._causal or self._exact.get(kind) is False:
            return forward(values)
        if name not in self._seen and len(distinct.first) < len(rows):
            self._seen.add(name)
            if not torch.equal(rows[distinct.first][distinct.which], rows):
                self._causal = False
                return forward(values)
        own = self._late if self._late and name in self._late_layers else distinct
        if own is distinct and not distinct.worthwhile:
            return forward(values)
        alone = self._filled(forward, rows[own.first], least)
        if kind not in self._exact:
            whole = forward(values)
            self._exact[kind] = torch.equal(alone, whole.flatten(0, 1)[own.first])
            return whole
        return alone[own.which].unflatten(0, distinct.shape)

    @staticmethod
    def _filled(forward: Callable[[Tensor], Tensor], rows: Tensor, least: int) -> Tensor:
        """Compute rows, (n, width), filled up to so many that their bits do not depend on it."""
        if len(rows) >= least:
            return forward(rows)
        filling = rows[:1].expand(least - len(rows), -1)
        return forward(torch.cat([rows, filling]))[: len(rows)]
