"""Quantiles of activations of a whole corpus, from whole counts of how large they are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from microtome.statistics.streamed import Kept, OfValues

#: How many leading bits of a float32 are counted by: sign, exponent and seven bits of the fraction.
BITS = 16


class Quantiles(OfValues):
    """Quantiles of all values at a site, over tokens and neurons.

    The values of float32 that begin with the same 16 bits are counted together, those of one
    bfloat16, so that any two counts add up without error. Bins grow with their distance from 0, as
    in DDSketch (Masson, Rim and Lee 2019): a quantile is the middle of its bin, and differs from a
    value of that rank by no more than 1/256 of it. The rank of the share q of n values is the whole
    part of q (n - 1), as numpy's method `lower` has it.

    It finishes as `quantile`, (`layer`, `site`, `share`), and `n`, how many values, (`layer`,
    `site`).
    """

    def __init__(self, sites: Sequence[str], shares: Sequence[float]) -> None:
        """Begin with empty bins, to find the values that are above these shares of all."""
        super().__init__(sites)
        self._shares = tuple(shares)

    def of(self, values: np.ndarray) -> Kept:
        """The counts of the bins, in the order of their values."""
        bins = np.ascontiguousarray(values, np.float32).view(np.uint32) >> (32 - BITS)
        counts = np.bincount(bins, minlength=1 << BITS)
        negative, positive = counts[1 << (BITS - 1) :], counts[: 1 << (BITS - 1)]
        return {"counts": np.concatenate([negative[::-1], positive])}

    def finished(self, kept: Kept) -> dict[str, Any]:
        """The quantiles of one layer and site."""
        counts: np.ndarray = kept["counts"]
        n = counts.sum()
        ranks = np.floor(np.array(self._shares) * (n - 1))
        place = np.searchsorted(counts.cumsum(), ranks, side="right")
        return {"quantile": _middles()[place], "n": n}

    def finish(self) -> xr.Dataset:
        """The quantiles, with their shares."""
        found = super().finish().rename(value="share")
        return found.assign_coords(share=list(self._shares))


def _middles() -> np.ndarray:
    """The values in the middle of the bins, ascending, float64."""
    lead = np.arange(1 << (BITS - 1), dtype=np.uint32) << (32 - BITS)
    with np.errstate(invalid="ignore"):
        positive = (lead + (1 << (31 - BITS))).view(np.float32).astype(np.float64)
    positive[: 1 << (BITS - 9)] = 0  # numbers below 1.2e-38, which have fewer digits
    return np.concatenate([-positive[::-1], positive])
