"""Whether tensors have the same numbers: all of them, but for a factor, or column by column.

What is compared was computed in one run, from the same numbers, so that only rounding differs.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

#: How far apart numbers may lie that are the same, as a share of the largest.
TOLERANCE = 1e-4


def multiple(target: Tensor, tensor: Tensor) -> float | None:
    """The factor that makes a tensor another one, or None if none does."""
    if target.shape != tensor.shape:
        return None
    factor = float((target * tensor).sum() / (tensor * tensor).sum().clamp_min(1e-30))
    if abs(factor - 1) < TOLERANCE:
        factor = 1.0
    close = (target - factor * tensor).abs().max() <= TOLERANCE * target.abs().max()
    return factor if close and factor != 0 else None


def same(tensor: Tensor | None, other: Tensor | None) -> bool:
    """Whether two tensors have the same numbers, but for rounding."""
    if tensor is None or other is None or tensor.shape != other.shape:
        return False
    return bool((tensor - other).abs().max() <= TOLERANCE * other.abs().max())


def columns_of(target: Tensor, tensor: Tensor) -> list[int] | None:
    """Where a tensor has each column of another one, but for one positive factor and a bias.

    Args:
        target: (row, n).
        tensor: (row, width).
    """

    # Some add a bias of their own after the projection.
    for of, among in ((target, tensor), (target - target[0], tensor - tensor[0])):
        found = torch.cat([cosines.argmax(dim=1) for cosines in _cosines(of, among)])
        factor = multiple(of, among[:, found])
        if factor is not None and factor > 0:
            return found.tolist()
    return None


def has_column(target: Tensor, tensor: Tensor) -> bool:
    """Whether a tensor has a column of another one, but for a positive factor."""
    return any((cosines > 1 - 1e-6).any() for cosines in _cosines(target, tensor))


def _cosines(one: Tensor, other: Tensor) -> Iterator[Tensor]:
    """The cosines between columns of two tensors, for a thousand columns of the first at a time."""
    one, other = (columns / columns.norm(dim=0).clamp_min(1e-30) for columns in (one, other))
    return (some.T @ other for some in one.split(1000, dim=1))
