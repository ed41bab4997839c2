"""Moments of activations, and what they are added up with, batch by batch.

Running statistics take the sections of a sweep as they come and keep a few numbers per layer and
site, however many texts there are: no activations are stored. The results are those of all values
at once.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from microtome.errors import MicrotomeError
from microtome.sites import KEYED_SITES
from microtome.store.layers import Section

#: Where a number belongs: the layer, or None after the last block, and the site.
Place = tuple[int | None, str]


class _Addable(Protocol):
    def __add__(self, other: Any, /) -> Any: ...


#: What the values of two batches can be added up in.
Sums = TypeVar("Sums", bound=_Addable)


def accumulate(
    sections: Iterable[Section], measure: Callable[[np.ndarray], Sums]
) -> dict[Place, Sums]:
    """Measure the values of each section, and add up what belongs to one layer and site.

    Args:
        sections: layer by layer, as the sweep yields them.
        measure: takes the values of one section at one site, (row, …), or without absent keys,
            (value,).
    """
    found: dict[Place, Sums] = {}

    def add(section: Section) -> None:
        for site, values in section.values.items():
            if site in KEYED_SITES:
                values = values[~np.isnan(values)]
            place, own = (section.layer, site), measure(values)
            found[place] = found[place] + own if place in found else own

    for section in sections:
        add(section)
        del section  # before the next one is computed
    return found


def layers_by_sites(found: Mapping[Place, Mapping[str, ArrayLike]]) -> xr.Dataset:
    """Lay out values by place and name as variables (`layer`, `site`), or with `value` last.

    Raises:
        MicrotomeError: a site after the last block, which is in no layer.
    """
    final = sorted(site for layer, site in found if layer is None)
    if final:
        raise MicrotomeError(
            f"sites {final}: they are in no layer, as running statistics want; name sites of the "
            "blocks under `sites`"
        )
    layers = list(dict.fromkeys(layer for layer, _ in found))
    sites = list(dict.fromkeys(site for _, site in found))
    arrays = {
        name: np.array([[found[layer, site][name] for site in sites] for layer in layers])
        for name in next(iter(found.values()))
    }
    dimensions = ("layer", "site", "value")
    return xr.Dataset(
        {name: (dimensions[: array.ndim], array) for name, array in arrays.items()},
        {"layer": layers, "site": sites},
    )


def running_moments(sections: Iterable[Section]) -> xr.Dataset:
    """Moments of all values at a site, over tokens and neurons.

    Batches are joined by the formulas of Chan, Golub and LeVeque ("Algorithms for computing the
    sample variance", 1983), up to the fourth moment by those of Pébay (SAND2008-6212), in float64.

    Args:
        sections: layer by layer, as the sweep yields them.

    Returns:
        `mean`, `sd` (of the population), `skewness`, `kurtosis` (3 for a normal distribution),
        `smallest`, `largest` and `n`, how many values, each (`layer`, `site`). Values that are
        all equal have neither skewness nor kurtosis (NaN).
    """
    found = accumulate(sections, _Moments.of)
    return layers_by_sites({place: moments.statistics() for place, moments in found.items()})


class _Moments:
    """Count, mean, extremes, and sums of the second to fourth power of deviations from the mean."""

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
        squares: Any = values * values  # numpy's types do not know its products for numbers
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
        return {
            "mean": self.mean,
            "sd": second**0.5,
            "skewness": skewness,
            "kurtosis": kurtosis,
            "smallest": self.ends[0],
            "largest": self.ends[1],
            "n": self.n,
        }
