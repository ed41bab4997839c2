"""The tokens of a whole corpus that each neuron responds to most, and what stands around them."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from microtome.statistics.streamed import Kept, Summed, site_dimensions, stacked
from microtome.store.layers import Section
from microtome.texts.rows import row_columns, token_columns
from microtome.texts.tokens import token_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: So many tokens of the table are looked through at once for those that were kept.
BLOCK = 1 << 20


class HighestTokens(Summed):
    """The highest activations of each neuron, and the tokens that they belong to.

    Of equal ones, those that come first in the corpus. It finishes as each of the sites, (`layer`,
    …, `rank`) with the site's dimensions, the activations in descending order, and `SITE_context`,
    in the same shape, where each stands among the contexts, (`context`,): `text` of the token,
    `before` and `after` it, its `sequence`, `position` and `token_id`. A corpus of fewer tokens has
    NaN and -1 in the last ranks.
    """

    def __init__(
        self,
        sites: Sequence[str],
        tokens: xr.Dataset,
        tokenizer: "PreTrainedTokenizerBase",
        n: int,
        n_around: int,
    ) -> None:
        """Begin with nothing.

        Args:
            sites: the sites.
            tokens: the token table of the sections that are added; of all that was, to finish.
            tokenizer: the model's own.
            n: how many activations of each neuron are kept.
            n_around: how many tokens of the text before and after each are told.
        """
        super().__init__(sites)
        self._tokens, self._tokenizer, self._n, self._around = tokens, tokenizer, n, n_around

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        columns = row_columns(token_columns(self._tokens))
        return {name: columns[name].astype(np.int64) for name in ("sequence", "position")}

    def measured(self, section: Section) -> Iterator[tuple[str, Kept]]:
        """The highest of one section."""
        sequence, position = (self._columns[c][section.rows] for c in ("sequence", "position"))
        for site in self.sites:
            values = section.values[site]
            shape = (self._n, *values.shape[1:])
            values = values.reshape(len(values), -1)
            row, neuron = np.nonzero(values >= self._least(section.layer or 0, site, values))
            found = values[row, neuron].astype(np.float64)
            yield site, _highest(found, sequence[row], position[row], neuron, shape)

    def _least(self, layer: int, site: str, values: np.ndarray) -> np.ndarray:
        """What a section's activations have to reach to be kept, (neuron,)."""
        known = self.kept[layer].get(site)
        if known and not np.isnan(known["value"][-1]).any():
            return known["value"][-1].ravel().astype(values.dtype)
        most = min(self._n, len(values))
        return np.partition(values, -most, axis=0)[-most]

    def joined(self, first: Kept, second: Kept) -> Kept:
        """The highest of both."""
        shape = first["value"].shape
        both = {name: np.concatenate([first[name], second[name]]) for name in first}
        there = both["sequence"].ravel() >= 0
        neuron = np.tile(np.arange(both["value"][0].size), len(both["value"]))
        value, sequence, position = (
            both[name].ravel()[there] for name in ("value", "sequence", "position")
        )
        return _highest(value, sequence, position, neuron[there], shape)

    def finish(self) -> xr.Dataset:
        """The highest activations, with their contexts."""
        self.require_tokens()
        found = {
            site: {
                name: np.moveaxis(stacked(parts[site][name] for parts in self.kept.values()), 1, -1)
                for name in ("value", "sequence", "position")
            }
            for site in self.sites
        }
        places = {site: _places(own["sequence"], own["position"]) for site, own in found.items()}
        known = np.unique(np.concatenate([own.ravel() for own in places.values()]))
        known = known[known >= 0]
        names = site_dimensions({site: own["value"].shape[1:-1] for site, own in found.items()})
        variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
        for site, own in found.items():
            dims = ("layer", *names[site], "rank")
            context = np.where(places[site] >= 0, np.searchsorted(known, places[site]), -1)
            values = own["value"].astype(np.float32)  # as they came
            variables |= {site: (dims, values), f"{site}_context": (dims, context)}
        contexts = self._contexts(known)
        return xr.Dataset(
            variables | {name: ("context", values) for name, values in contexts.items()},
            {"layer": list(self.kept), "rank": np.arange(1, self._n + 1)},
        )

    def _contexts(self, known: np.ndarray) -> dict[str, np.ndarray]:
        """Read the tokens at some places, ascending, and what stands around them."""
        table, around = self._tokens, self._around
        found: dict[str, list[object]] = {name: [] for name in ("text", "before", "after")}
        ids_found: list[np.ndarray] = []
        n_tokens = table.sizes["token"]
        for start in range(0, n_tokens, BLOCK):
            stop = min(start + BLOCK, n_tokens)
            first, last = max(0, start - around), min(stop + around, n_tokens)
            block = table.isel(token=slice(first, last))
            sequence = block["sequence"].values.astype(np.int64)
            place = _places(sequence, block["position"].values.astype(np.int64))
            own = place[start - first : stop - first]
            here = known[np.searchsorted(known, own[0]) : np.searchsorted(known, own[-1], "right")]
            if not here.size:
                continue
            ids = block["token_id"].values
            rows = np.searchsorted(place, here)
            ids_found.append(ids[rows])
            for row in rows.tolist():
                text = range(max(0, row - around), min(row + around + 1, len(ids)))
                own_text = [i for i in text if sequence[i] == sequence[row]]
                before = [int(ids[i]) for i in own_text if i < row]
                after = [int(ids[i]) for i in own_text if i > row]
                found["before"].append(self._text(before))
                found["text"].append(token_text(self._tokenizer, int(ids[row])))
                found["after"].append(self._text(after))
        texts = {name: np.array(texts, dtype=object) for name, texts in found.items()}
        sequence, position = np.divmod(known, 1 << 31)
        return {
            **texts,
            "sequence": sequence,
            "position": position,
            "token_id": np.concatenate(ids_found),
        }

    def _text(self, ids: list[int]) -> str:
        """Tokens in a row as text, without the null that HDF5 would end it at."""
        return str(self._tokenizer.decode(ids)).replace("\0", "␀")


def _places(sequence: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Tokens of a corpus as whole numbers in their order, -1 for none."""
    return np.where(sequence >= 0, (sequence << 31) + position, -1)


def _highest(
    value: np.ndarray,
    sequence: np.ndarray,
    position: np.ndarray,
    neuron: np.ndarray,
    shape: tuple[int, ...],
) -> Kept:
    """Choose the highest of each neuron, of equal ones the first.

    Args:
        value: activations, (found,).
        sequence: the sequence of each.
        position: its position there.
        neuron: its neuron.
        shape: of what is returned, ranks first and then neurons.

    Returns:
        `value`, `sequence` and `position`, (rank, …), with NaN and -1 where there are fewer.
    """
    order = np.lexsort((position, sequence, -value, neuron))
    starts = np.flatnonzero(np.diff(neuron[order], prepend=-1))
    counts = np.diff(np.append(starts, len(order)))
    rank = np.arange(len(order)) - np.repeat(starts, counts)
    order = order[rank < shape[0]]
    at = rank[rank < shape[0]], neuron[order]
    kept = {
        "value": np.full((shape[0], int(np.prod(shape[1:]))), np.nan),
        "sequence": np.full((shape[0], int(np.prod(shape[1:]))), -1, np.int64),
        "position": np.full((shape[0], int(np.prod(shape[1:]))), -1, np.int64),
    }
    for name, values in (("value", value), ("sequence", sequence), ("position", position)):
        kept[name][at] = values[order]
    return {name: values.reshape(shape) for name, values in kept.items()}
