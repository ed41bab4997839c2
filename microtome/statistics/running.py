"""Statistics of activations as the sweep brings them, so that none has to be stored.

Each takes sections batch by batch and keeps a few numbers per layer and site, whatever the number
of texts. The results are those of all values at once.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import xarray as xr

from microtome.statistics.distributions import centres
from microtome.store.layers import Section


def moments(sections: Iterable[Section]) -> xr.Dataset:
    """Moments of all values at a site, over tokens and neurons.

    Batches are joined by Chan, Golub and LeVeque's formulas ("Algorithms for computing the sample
    variance", 1983), to the fourth moment by Pébay (SAND2008-6212), in float64.

    Args:
        sections: layer by layer, as the sweep yields them.

    Returns:
        `mean`, `sd` (of the population), `skewness`, `kurtosis` (3 for a normal distribution),
        `smallest`, `largest` and `n`, how many values, each (`layer`, `site`).
    """
    found: dict[tuple[int | None, str], _Moments] = {}

    def add(section: Section) -> None:
        for site, values in section.values.items():
            own = _Moments.of(values)
            key = (section.layer, site)
            found[key] = found[key] + own if key in found else own

    _each(add, sections)
    rows = {key: sums.statistics() for key, sums in found.items()}
    return _by_layer_and_site({name: {k: r[name] for k, r in rows.items()} for name in _NAMES})


def histograms(
    sections: Iterable[Section], n_edges: int, limit: float, n_threads: int = 1
) -> xr.Dataset:
    """Histograms of all values at a site, over tokens and neurons.

    Args:
        sections: layer by layer, as the sweep yields them.
        n_edges: the edges of the bins, evenly spaced and including both limits.
        limit: the last edge; the first is its negative.
        n_threads: how many count at once: where the sweep waits for the counts, it computes
            nothing.

    Returns:
        `density`, (`layer`, `site`, `value`), with the bins' centres along `value`; `n`, how many
        values there are, and `beyond`, the share of them outside the limits, (`layer`, `site`);
        attribute `limit`.
    """
    counts: dict[tuple[int | None, str], np.ndarray] = {}
    n: dict[tuple[int | None, str], int] = {}

    def counted(values: np.ndarray) -> np.ndarray:
        # In float64, the dtype of the edges: a value on an edge belongs to the bin above it.
        return np.histogram(values.astype(np.float64), n_edges - 1, (-limit, limit))[0]

    def add(section: Section) -> None:
        for site, values in section.values.items():
            key = (section.layer, site)
            count = sum(pool.map(counted, np.array_split(values, n_threads)))
            counts[key] = counts.get(key, 0) + count
            n[key] = n.get(key, 0) + values.size

    with ThreadPoolExecutor(n_threads) as pool:
        _each(add, sections)
    width = 2 * limit / (n_edges - 1)
    inside = {key: count.sum() for key, count in counts.items()}
    found = _by_layer_and_site(
        {"n": n, "beyond": {key: 1 - inside[key] / n[key] for key in n}}
        | {"density": {key: count / (max(inside[key], 1) * width) for key, count in counts.items()}}
    )
    return found.assign_coords(value=centres(n_edges, limit)).assign_attrs(limit=limit)


def _each(add: Callable[[Section], None], sections: Iterable[Section]) -> None:
    """Add sections, each forgotten before the next one is computed."""
    for section in sections:
        add(section)
        del section


_NAMES = ("mean", "sd", "skewness", "kurtosis", "smallest", "largest", "n")


class _Moments:
    """Count, mean, extremes, and sums of the powers of what lies above or below the mean."""

    def __init__(
        self, n: int, mean: float, powers: tuple[float, float, float], ends: tuple[float, float]
    ) -> None:
        self.n, self.mean, self.powers, self.ends = n, mean, powers, ends

    @classmethod
    def of(cls, values: np.ndarray) -> "_Moments":
        values = values.astype(np.float64).ravel()
        mean = values.mean()
        ends = values.min(), values.max()
        values -= mean
        squares = values * values
        powers = squares.sum(), squares @ values, squares @ squares
        return cls(values.size, mean, powers, ends)

    def __add__(self, other: "_Moments") -> "_Moments":
        a, b = self.n, other.n
        n, d = a + b, other.mean - self.mean
        (a2, a3, a4), (b2, b3, b4) = self.powers, other.powers
        second = a2 + b2 + d**2 * a * b / n
        third = a3 + b3 + d**3 * a * b * (a - b) / n**2 + 3 * d * (a * b2 - b * a2) / n
        fourth = (
            a4
            + b4
            + d**4 * a * b * (a * a - a * b + b * b) / n**3
            + 6 * d**2 * (a * a * b2 + b * b * a2) / n**2
            + 4 * d * (a * b3 - b * a3) / n
        )
        ends = min(self.ends[0], other.ends[0]), max(self.ends[1], other.ends[1])
        return _Moments(n, self.mean + d * b / n, (second, third, fourth), ends)

    def statistics(self) -> dict[str, float]:
        second, third, fourth = (power / self.n for power in self.powers)
        with np.errstate(invalid="ignore", divide="ignore"):
            skewness = np.float64(third) / second**1.5
            kurtosis = np.float64(fourth) / second**2
        return dict(
            zip(
                _NAMES,
                (self.mean, second**0.5, skewness, kurtosis, *self.ends, self.n),
                strict=True,
            )
        )


def _by_layer_and_site(named: dict[str, dict[tuple[int | None, str], np.ndarray]]) -> xr.Dataset:
    """Lay out values by (layer, site) as arrays (`layer`, `site`), with `value` last if any."""
    keys = list(next(iter(named.values())))
    layers, sites = (list(dict.fromkeys(key[i] for key in keys)) for i in (0, 1))
    arrays = {
        name: np.array([[values[layer, site] for site in sites] for layer in layers])
        for name, values in named.items()
    }
    dimensions = ("layer", "site", "value")
    return xr.Dataset(
        {name: (dimensions[: array.ndim], array) for name, array in arrays.items()},
        {"layer": layers, "site": sites},
    )
