"""Attention patterns: their entropies, and averages over texts, made batch by batch."""

from collections.abc import Callable, Iterable, Mapping
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


def running_entropies(sections: Iterable[Section], position: np.ndarray) -> xr.Dataset:
    """Mean entropies of the patterns at each position, over texts.

    Args:
        sections: layer by layer, as the sweep yields them, with `pattern`.
        position: the position in its text of each row, (row,).

    Returns:
        `entropy`, (`layer`, `n_heads`, `position`), in nats, float32; `n`, (`position`,), how many
        texts have the position.
    """
    return _averaged(sections, position, lambda values: {"entropy": entropies(values["pattern"])})


def running_patterns(
    sections: Iterable[Section], position: np.ndarray, n_positions: int
) -> xr.Dataset:
    """Mean scores and patterns at each position, over texts.

    Args:
        sections: layer by layer, as the sweep yields them, with `pattern`, `scores` or both.
        position: the position in its text of each row, (row,).
        n_positions: how many positions and keys are averaged, from the beginning of each text.

    Returns:
        Each of these sites, (`layer`, `n_heads`, `position`, `key`), float32: the mean over the
        texts in which the key is within reach of the position, NaN if it is in none; `n`,
        (`position`,), how many texts have the position.
    """

    def first(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {site: of_site[..., :n_positions] for site, of_site in values.items()}

    return _averaged(sections, position, first, n_positions)


def _averaged(
    sections: Iterable[Section],
    position: np.ndarray,
    measure: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]],
    n_positions: int | None = None,
) -> xr.Dataset:
    """Average what is measured of each section's values, (row, n_heads, …), by position."""
    positions, counts = np.unique(position, return_counts=True)
    positions, counts = positions[:n_positions], counts[:n_positions]
    layers, means = [], []
    for layer, group in groupby(sections, key=attrgetter("layer")):
        sums: dict[str, _Sums] = {}
        for section in group:
            place = np.searchsorted(positions, position[section.rows])
            kept = place < len(positions)
            for name, values in measure(section.values).items():
                own = sums.setdefault(name, _Sums((len(positions), *values.shape[1:])))
                own.add(place[kept], values[kept])
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
