"""Streamed statistics: an empty one, sections of a sweep added, others merged, at last a dataset.

They take the sections of a sweep as they come and keep a few numbers for each layer, however many
texts there are: no activations are stored. The sweep may be cut into shards, jobs of some texts
each. Each job keeps the `state` of its statistic, and a last one merges them in order. The result
is that of all values at once, but for the rounding of float64.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy, deepcopy
from typing import Any, Self

import numpy as np
import xarray as xr

from microtome.errors import MicrotomeError
from microtome.sites import KEYED_SITES
from microtome.store.layers import Section

#: What is kept of a part of a layer, by name: arrays or numbers, float64 or whole.
Sums = Mapping[str, Any]


class Streamed(ABC):
    """A statistic of the sections that were added so far.

    A study's function returns an empty one. A class of its own says what is `measured` of a
    section, how two such measures are `joined`, and how it `finish`es.

    Attributes:
        sites: the sites of blocks that it is of; a section may have others.
        parts: what sums are kept of in each layer: by default of each site.
        sums: what is kept, by layer and part.
    """

    def __init__(self, sites: Sequence[str], parts: Sequence[str] | None = None) -> None:
        """Begin with nothing."""
        self.sites = tuple(sites)
        self.parts = self.sites if parts is None else tuple(parts)
        self.sums: dict[int, dict[str, Sums]] = {}

    def add(self, section: Section) -> None:
        """Add a section, of any layer and with any rows that were not added before.

        Raises:
            MicrotomeError: sites after the last block, which are in no layer.
        """
        if section.layer is None:
            raise MicrotomeError(
                f"sites {sorted(section.values)}: they are in no layer, as streamed statistics "
                "want; name sites of the blocks under `sites`"
            )
        if len(section.rows):
            self._join(section.layer, self.measured(section))

    def merge(self, other: Self) -> None:
        """Add all that was added to another one, of texts that follow."""
        for layer, parts in other.sums.items():
            if layer in self.sums:
                self._join(layer, parts.items())
            else:
                self.sums[layer] = deepcopy(parts)

    def _join(self, layer: int, found: Iterable[tuple[str, Sums]]) -> None:
        kept = self.sums.setdefault(layer, {})
        for part, sums in found:
            kept[part] = self.joined(kept[part], sums) if part in kept else sums

    @abstractmethod
    def measured(self, section: Section) -> Iterator[tuple[str, Sums]]:
        """The sums of one section, by part."""

    def joined(self, first: Sums, second: Sums) -> Sums:
        """The sums of both, by default added. The first ones may be changed, the second not."""
        return {name: first[name] + second[name] for name in first}

    @abstractmethod
    def finish(self) -> xr.Dataset:
        """The statistic of all that was added."""

    def state(self) -> xr.Dataset:
        """All that is kept, as a dataset that can be written: `part.name`, (`layer`, …)."""
        layers = list(self.sums)
        variables = {
            f"{part}.{name}": stacked(self.sums[layer][part][name] for layer in layers)
            for part in self.parts
            for name in (self.sums[layers[0]][part] if layers else ())
        }
        return xr.Dataset(
            {
                name: (("layer", *(f"{name}.{i}" for i in range(1, values.ndim))), values)
                for name, values in variables.items()
            },
            {"layer": layers},
        )

    def from_state(self, state: xr.Dataset) -> Self:
        """Another one like this one, but with what the `state` of one like it says."""
        other = copy(self)
        named = [(part, f"{part}.") for part in self.parts]
        other.sums = {
            layer: {
                part: {
                    str(name).removeprefix(prefix): values.values[i]
                    for name, values in state.items()
                    if str(name).startswith(prefix)
                }
                for part, prefix in named
            }
            for i, layer in enumerate(state["layer"].values.tolist())
        }
        return other


class OfValues(Streamed):
    """A statistic of all values at a site, over tokens and neurons.

    Absent keys of `scores` and `pattern` are left out.
    """

    def measured(self, section: Section) -> Iterator[tuple[str, Sums]]:
        """The sums of each site's values."""
        for site in self.sites:
            values = section.values[site].ravel()
            yield site, self.of(values[~np.isnan(values)] if site in KEYED_SITES else values)

    @abstractmethod
    def of(self, values: np.ndarray) -> Sums:
        """The sums of some values, (value,), one at least."""

    @abstractmethod
    def finished(self, sums: Sums) -> Mapping[str, Any]:
        """The variables of the statistic, of one layer and site."""

    def finish(self) -> xr.Dataset:
        """Variables (`layer`, `site`), or with `value` last."""
        rows = [[self.finished(parts[site]) for site in self.sites] for parts in self.sums.values()]
        arrays = {
            name: np.array([[own[name] for own in row] for row in rows]) for name in rows[0][0]
        }
        dimensions = ("layer", "site", "value")
        return xr.Dataset(
            {name: (dimensions[: array.ndim], array) for name, array in arrays.items()},
            {"layer": list(self.sums), "site": list(self.sites)},
        )


def streamed(statistic: Streamed, sections: Iterable[Section]) -> xr.Dataset:
    """Add all sections of a sweep to a statistic, and finish it.

        streamed(statistics.moments(sites=["resid_post"]), stream(sections))

    Args:
        statistic: an empty one.
        sections: layer by layer, as the sweep yields them, or `microtome.statistics.layers.stream`.
    """
    for section in sections:
        statistic.add(section)
        del section  # before the next one is computed
    return statistic.finish()


def stacked(arrays: Iterable[Any]) -> np.ndarray:
    """Stack what is kept of each layer along a new first axis.

    Raises:
        MicrotomeError: layers differ in shape.
    """
    found = [np.asarray(array) for array in arrays]
    shapes = {array.shape for array in found}
    if len(shapes) > 1:
        raise MicrotomeError(
            f"layers: their values have different shapes, {shapes}; choose those of one shape with "
            "`layers`"
        )
    return np.stack(found)
