"""Attention patterns: their entropies, and averages over texts, made in the sweep."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from scipy.special import entr

from microtome.statistics.grouped import GroupMeans
from microtome.store.layers import Section


def entropies(pattern: np.ndarray) -> np.ndarray:
    """Entropies of attention patterns, in nats: 0 for one key alone, log n for n alike.

    Args:
        pattern: the keys' shares, (…, key), NaN for absent keys. Where a sink has the rest, they
            are first made to sum to 1.

    Returns:
        (…,), float64.
    """
    shares = np.nan_to_num(pattern.astype(np.float64))
    return entr(shares / shares.sum(-1, keepdims=True)).sum(-1)


class PositionMeans(GroupMeans):
    """Means at each position, over texts: of each part, (`layer`, `n_heads`, `position`, …).

    Beside them stands `n`, (`position`,), how many texts have the position.
    """

    def finish(self) -> xr.Dataset:
        """The means."""
        found = {}
        for part in self.parts:
            positions, n, means = self.means(part)
            names = ("layer", "n_heads", "position", "key")[: means.ndim]
            found[part] = (names, means.swapaxes(1, 2))
        return xr.Dataset(
            found | {"n": ("position", n)}, {"layer": list(self.kept), "position": positions}
        )


class Entropies(PositionMeans):
    """Mean entropies of the patterns at each position, over texts: `entropy`, in nats."""

    def __init__(self, tokens: xr.Dataset) -> None:
        """Begin with nothing, for sections of these tokens."""
        super().__init__(["pattern"], tokens, "position", ["entropy"])

    def values(self, section: Section) -> Mapping[str, np.ndarray]:
        """The entropies, (row, n_heads)."""
        return {"entropy": entropies(section.values["pattern"])}


class Patterns(PositionMeans):
    """Mean scores and patterns at each position, over the texts in which the key is in reach.

    It finishes as each of the sites, with `key` last; NaN where the key is in reach in no text.
    """

    def __init__(self, sites: Sequence[str], tokens: xr.Dataset, n_positions: int) -> None:
        """Begin with nothing.

        Args:
            sites: `pattern`, `scores` or both.
            tokens: the token table of the sections that are added.
            n_positions: how many positions and keys are averaged, from the beginning of each text.
        """
        super().__init__(sites, tokens, "position", most=n_positions)
        self._n_keys = n_positions

    def values(self, section: Section) -> Mapping[str, np.ndarray]:
        """The shares or scores of the first keys, (row, n_heads, key)."""
        return {site: section.values[site][..., : self._n_keys] for site in self.sites}
