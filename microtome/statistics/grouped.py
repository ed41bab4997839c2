"""Means over groups of rows: those at one position in their texts, or those of one token."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, reduce

import numpy as np
import xarray as xr

from microtome.sites import KEYED_SITES
from microtome.statistics.streamed import Kept, Summed, site_dimensions, stacked
from microtome.store.layers import Section
from microtome.texts.rows import row_columns, token_columns


class GroupMeans(Summed):
    """Means of values over the rows with the same label, in every layer.

    It keeps of each part the labels `groups`, ascending, and for each the number `n` of its rows,
    the sums `totals` of their values and, where some may be absent, the `counts` of those that are
    there.
    """

    def __init__(
        self,
        sites: Sequence[str],
        tokens: xr.Dataset,
        column: str,
        parts: Sequence[str] | None = None,
        most: int | None = None,
    ) -> None:
        """Begin with nothing.

        Args:
            sites: the sites.
            tokens: the token table of the sections that are added; read with the first one.
            column: its column of labels, whole numbers.
            parts: what is averaged, by default the values of each site.
            most: how many labels are kept, the least ones.
        """
        super().__init__(sites, parts)
        self._tokens, self._column, self._most = tokens, column, most
        self._known = np.empty(0, int)  # labels of sections that are to come

    @cached_property
    def _labels(self) -> np.ndarray:
        labels = row_columns(token_columns(self._tokens))[self._column]
        self._known = np.unique(labels)
        return labels

    def values(self, section: Section) -> Mapping[str, np.ndarray]:
        """What is averaged, (row, …) by part; NaN is absent."""
        return {site: section.values[site] for site in self.sites}

    def measured(self, section: Section) -> Iterator[tuple[str, Kept]]:
        """The sums of each group of rows."""
        labels = self._labels[section.rows]
        order = np.argsort(labels, kind="stable")
        groups, starts, n = np.unique(labels[order], return_index=True, return_counts=True)
        for part, values in self.values(section).items():
            ordered = values[order]
            found = {"groups": groups, "n": n.copy()}  # which each part adds to
            if part in KEYED_SITES:
                there = ~np.isnan(ordered)
                found["counts"] = np.add.reduceat(there, starts, axis=0, dtype=np.int64)
                ordered = np.where(there, ordered, 0)
            found["totals"] = np.add.reduceat(ordered, starts, axis=0, dtype=np.float64)
            yield part, {name: array[: self._most] for name, array in found.items()}

    def joined(self, first: Kept, second: Kept) -> Kept:
        """The sums of both, of all groups that either has."""
        groups = first["groups"]
        if not np.isin(second["groups"], groups).all():
            groups = reduce(np.union1d, (groups, second["groups"], self._known))[: self._most]
        names = [name for name in first if name != "groups"]
        shapes = {name: np.maximum(first[name].shape, second[name].shape)[1:] for name in names}
        whole = {name: _spread(first, name, groups, shape) for name, shape in shapes.items()}
        here = np.isin(second["groups"], groups)
        place = np.searchsorted(groups, second["groups"][here])
        for name, array in whole.items():
            added = second[name][here]
            array[(place, *map(slice, added.shape[1:]))] += added
        return {"groups": groups, **whole}

    def means(self, part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of one part the labels, (group,), how many rows each has, and means, (layer, group, …).

        A mean of no values is NaN.
        """
        of_layers = [parts[part] for parts in self.kept.values()]
        first = of_layers[0]
        chosen = first["n"] > 0
        with np.errstate(invalid="ignore"):
            means = stacked(_mean(kept)[chosen] for kept in of_layers)
        return first["groups"][chosen], first["n"][chosen], means


def _spread(kept: Kept, name: str, groups: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """An array of sums with a row for each of more groups, and as large as another one."""
    array: np.ndarray = kept[name]
    if groups is kept["groups"] and array.shape[1:] == tuple(shape):
        return array
    whole = np.zeros((len(groups), *shape), array.dtype)
    here = np.isin(kept["groups"], groups)
    place = np.searchsorted(groups, kept["groups"][here])
    whole[(place, *map(slice, array.shape[1:]))] = array[here]
    return whole


def _mean(kept: Kept) -> np.ndarray:
    totals: np.ndarray = kept["totals"]
    if "counts" in kept:
        return totals / kept["counts"]
    return totals / kept["n"].reshape(-1, *[1] * (totals.ndim - 1))


class TokenMeans(GroupMeans):
    """Means over all rows of one token, of each token of the vocabulary that is seen.

    It finishes as each of the sites, (`layer`, `token_id`, …) with the site's dimensions, float64;
    and `n`, (`token_id`,), how many rows each token has.
    """

    def __init__(self, sites: Sequence[str], tokens: xr.Dataset) -> None:
        """Begin with nothing; the arguments are those of `GroupMeans`."""
        super().__init__(sites, tokens, "token_id")

    def finish(self) -> xr.Dataset:
        """The means."""
        found = {}
        for site in self.sites:
            ids, n, found[site] = self.means(site)
        names = site_dimensions({site: means.shape[2:] for site, means in found.items()})
        means = {s: (("layer", "token_id", *names[s]), found[s]) for s in self.sites}
        return xr.Dataset(
            means | {"n": ("token_id", n)}, {"layer": list(self.kept), "token_id": ids}
        )
