"""Streamed statistics: an empty one, sections of a sweep added, others merged, at last a dataset.

They take the sections of a sweep as they come and keep a few numbers for each layer, however many
texts there are: no activations are stored. The sweep may be cut into shards, jobs of some texts
each. Each job keeps the `state` of its statistic, and a last one merges them in order. The result
is that of all values at once, but for the rounding of float64.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import xarray as xr

from microtome.errors import MicrotomeError
from microtome.sites import DIMENSIONS, KEYED_SITES, dimensions
from microtome.store.layers import Section, is_sound
from microtome.texts.rows import row_columns, token_columns

#: What is kept of a part of a layer: by name, arrays or numbers, float64 or whole.
Kept = Mapping[str, Any]


class Streamed(ABC):
    """A statistic of the sections that were added so far.

    A study's function returns an empty one. A class of its own says what it keeps of a section, how
    what is kept of two texts is `joined`, and what it makes of all (`finish`).

    Attributes:
        sites: the sites of blocks that it is of; a section may have others.
        parts: what something is kept of in each layer, by default each site.
        kept: what is kept, by layer and part.
    """

    def __init__(self, sites: Sequence[str], parts: Sequence[str] | None = None) -> None:
        """Begin with nothing."""
        self.sites = tuple(sites)
        self.parts = self.sites if parts is None else tuple(parts)
        self.kept: dict[int, dict[str, Kept]] = {}
        self._later: tuple[xr.Dataset, int] | None = None

    def from_token(self, tokens: xr.Dataset, position: int) -> Self:
        """Leave out the first tokens of each text, such as those that attention sinks into.

        Args:
            tokens: the token table of the sections that are added.
            position: the position of the first token to keep; 0 keeps all.

        Returns:
            This statistic.
        """
        self._later = (tokens, position) if position else None
        return self

    @cached_property
    def _taken(self) -> np.ndarray | None:
        """Whether each row of the token table takes part, (row,); None if all do."""
        if self._later is None:
            return None
        tokens, first = self._later
        position: np.ndarray = row_columns(token_columns(tokens))["position"]
        return position >= first

    def add(self, section: Section) -> None:
        """Add a section, of any layer and with any rows that were not added before.

        Raises:
            MicrotomeError: sites after the last block, which are in no layer; a value is infinite,
                or NaN where that does not mean an absent key.
        """
        if section.layer is None:
            raise MicrotomeError(
                f"sites {sorted(section.values)}: they are in no layer, as streamed statistics "
                "want; name sites of the blocks under `sites`"
            )
        rows, values = section.rows, {site: section.values[site] for site in self.sites}
        if self._taken is not None:
            taken = self._taken[rows]
            rows, values = rows[taken], {site: own[taken] for site, own in values.items()}
        if len(rows):
            for site, of_site in values.items():
                if not is_sound(of_site, site):
                    raise MicrotomeError(
                        f"layer {section.layer}, site {site}: NaN or infinite activations; check "
                        "the checkpoint's weights and `dtype` in the config's `sweep`"
                    )
            self.take(section.layer, replace(section, rows=rows, values=values))

    def merge(self, other: Self) -> None:
        """Add all that was added to another one, of texts that follow."""
        for layer, parts in other.kept.items():
            if layer in self.kept:
                own = self.kept[layer]
                self.kept[layer] = {part: self.joined(own[part], parts[part]) for part in own}
            else:
                self.kept[layer] = deepcopy(parts)

    @abstractmethod
    def take(self, layer: int, section: Section) -> None:
        """Add a section of one row at least, with the own sites alone."""

    @abstractmethod
    def joined(self, first: Kept, second: Kept) -> Kept:
        """What is kept of both. The first one may be changed, the second not."""

    @abstractmethod
    def finish(self) -> xr.Dataset:
        """The statistic of all that was added."""

    def require_tokens(self) -> None:
        """Refuse texts of which no token takes part.

        Raises:
            MicrotomeError: there is none.
        """
        if not self.kept:
            raise MicrotomeError("first_token: no text has a token there; correct the option")

    def state(self) -> xr.Dataset:
        """All that is kept, as a dataset that can be written: `part.name`, (`layer`, …)."""
        layers = list(self.kept)
        variables = {
            f"{part}.{name}": stacked(self.kept[layer][part][name] for layer in layers)
            for part in self.parts
            for name in (self.kept[layers[0]][part] if layers else ())
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
        other.kept = {
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


class Summed(Streamed):
    """A statistic whose sections are measured one by one, and joined as other texts are."""

    def take(self, layer: int, section: Section) -> None:
        """Add a section of one row at least."""
        own = self.kept.setdefault(layer, {})
        for part, found in self.measured(section):
            own[part] = self.joined(own[part], found) if part in own else found

    @abstractmethod
    def measured(self, section: Section) -> Iterator[tuple[str, Kept]]:
        """What is kept of one section, by part."""

    def joined(self, first: Kept, second: Kept) -> Kept:
        """The sums of both."""
        return {name: first[name] + second[name] for name in first}


class OfValues(Summed):
    """A statistic of all values at a site, over tokens and neurons.

    Absent keys of `scores` and `pattern` are left out.
    """

    def measured(self, section: Section) -> Iterator[tuple[str, Kept]]:
        """What is kept of each site's values."""
        for site in self.sites:
            values = section.values[site].ravel()
            yield site, self.of(values[~np.isnan(values)] if site in KEYED_SITES else values)

    @abstractmethod
    def of(self, values: np.ndarray) -> Kept:
        """What is kept of some values, (value,), one at least."""

    @abstractmethod
    def finished(self, kept: Kept) -> Mapping[str, Any]:
        """The variables of the statistic, of one layer and site."""

    def finish(self) -> xr.Dataset:
        """Variables (`layer`, `site`), or with `value` last."""
        rows = [[self.finished(parts[site]) for site in self.sites] for parts in self.kept.values()]
        arrays = {
            name: np.array([[own[name] for own in row] for row in rows]) for name in rows[0][0]
        }
        dimensions = ("layer", "site", "value")
        return xr.Dataset(
            {name: (dimensions[: array.ndim], array) for name, array in arrays.items()},
            {"layer": list(self.kept), "site": list(self.sites)},
        )


class PerRow(Streamed):
    """A statistic with something for each row of the token table, in every layer."""

    def __init__(self, sites: Sequence[str]) -> None:
        """Begin with nothing."""
        super().__init__(sites, ["rows"])

    @abstractmethod
    def blank(self) -> dict[str, np.ndarray]:
        """Arrays (row, …) that a layer's sections are to fill."""

    def of_layer(self, layer: int) -> Kept:
        """The arrays of a layer."""
        return self.kept.setdefault(layer, {"rows": self.blank()})["rows"]

    def joined(self, first: Kept, second: Kept) -> Kept:
        """The rows of one after those of the other."""
        return {name: np.concatenate([first[name], second[name]]) for name in first}


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


def site_dimensions(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, ...]]:
    """Name the dimensions of sites by the shapes of one token's values there."""
    heads = {shape[-1] for site, shape in shapes.items() if DIMENSIONS[site][-1] == "d_head"}
    # Values as wide as queries need no name of their own.
    sizes = {"d_value": 0} if len(heads) > 1 else {}
    return {site: dimensions(site, sizes) for site in shapes}
