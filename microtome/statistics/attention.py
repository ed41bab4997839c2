"""Attention patterns: their entropies, and averages over texts, made batch by batch."""

from collections.abc import Iterable
from itertools import groupby
from operator import attrgetter

import numpy as np
import xarray as xr
from scipy.special import entr

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


def running_attention(sections: Iterable[Section], position: np.ndarray) -> xr.Dataset:
    """Average scores and patterns of each position over texts, and entropies of the patterns.

    Args:
        sections: layer by layer, as the sweep yields them, with `pattern`, `scores` or both.
        position: the position in its text of each row, (row,).

    Returns:
        Each of these sites, (`layer`, `n_heads`, `position`, `key`), float32: its mean over the
        texts in which the key is within reach of the position, NaN if it is in none. With
        `pattern` also `entropy`, (`layer`, `n_heads`, `position`), the mean entropy in nats. `n`,
        (`position`,), is the number of texts.
    """
    positions, place, counts = np.unique(position, return_inverse=True, return_counts=True)
    layers, means = [], []
    for layer, group in groupby(sections, key=attrgetter("layer")):
        sums: dict[str, _Sums] = {}
        for section in group:
            for site, values in section.values.items():
                found = {site: values}
                if site == "pattern":
                    found["entropy"] = entropies(values)
                for name, one in found.items():
                    own = sums.setdefault(name, _Sums((len(positions), *one.shape[1:])))
                    own.add(place[section.rows], one)
            del section  # before the next one is computed
        layers.append(layer)
        means.append({name: own.means() for name, own in sums.items()})
    dimensions = ("layer", "n_heads", "position", "key")
    stacked = {name: np.stack([of[name] for of in means]) for name in means[0]}
    return xr.Dataset(
        {name: (dimensions[: values.ndim], values) for name, values in stacked.items()}
        | {"n": ("position", counts)},
        {"layer": layers, "position": positions},
    )


class _Sums:
    """Sums over texts of the values at each position, and how many there were."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._totals, self._counts = np.zeros(shape), np.zeros(shape, int)

    def add(self, place: np.ndarray, values: np.ndarray) -> None:
        """Add values, (row, n_heads, …), of rows at these places."""
        there = ~np.isnan(values)
        np.add.at(self._totals, place, np.where(there, values, 0))
        np.add.at(self._counts, place, there)

    def means(self) -> np.ndarray:
        """Means, (n_heads, position, …), float32; NaN of no values."""
        with np.errstate(invalid="ignore"):
            return (self._totals / self._counts).swapaxes(0, 1).astype(np.float32)
