"""The cases of an intervention: every combination of what varies, and the texts they change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from microtome.errors import MicrotomeError
from microtome.interventions.declaration import Intervention, Tokens
from microtome.options import layer_numbers
from microtome.sites import SITES
from microtome.texts.rows import sequences

#: Columns of a token table that say which tokens belong to the word, or are masked.
_MARKED = {"word": "in_word", "mask": "masked"}


@dataclass(frozen=True)
class Text:
    """One text of a token table.

    Attributes:
        number: its number in the set.
        rows: the rows of the token table that are its tokens, (position,).
        ids: their token ids, (position,).
        marks: by column, `in_word` or `masked`, which of them are marked, (position,).
    """

    number: int
    rows: np.ndarray
    ids: np.ndarray
    marks: Mapping[str, np.ndarray]

    def positions(self, tokens: Tokens) -> np.ndarray:
        """The positions of some of its tokens, ascending, (n,).

        Raises:
            MicrotomeError: it has none.
        """
        length = len(self.ids)
        if tokens.kind == "all":
            return np.arange(length)
        if tokens.kind == "last":
            return np.array([length - 1])
        if tokens.kind == "positions":
            for position in tokens.positions:
                if not -length <= position < length:
                    raise MicrotomeError(
                        f"text {self.number} has {length} tokens and no position {position}"
                    )
            found = np.unique(np.array(tokens.positions) % length)
        else:
            found = np.flatnonzero(self.marks.get(_MARKED[tokens.kind], ()))
            if not len(found):
                what = "word of a template" if tokens.kind == "word" else "mask token"
                raise MicrotomeError(f"text {self.number} has no {what}")
        return np.arange(found[0], length) if tokens.onwards else found


def texts_of(columns: Mapping[str, np.ndarray]) -> list[Text]:
    """The texts of a token table.

    Args:
        columns: its columns by name, (token,) each.
    """
    ids = sequences(columns)
    numbered = {"sequence": columns["sequence"], "row": np.arange(len(columns["token_id"]))}
    rows = sequences(numbered, "row")
    marks = {name: sequences(columns, name) for name in _MARKED.values() if name in columns}
    return [
        Text(n, rows[n], ids[n], {name: marked[n] for name, marked in marks.items()})
        for n in range(len(ids))
    ]


@dataclass(frozen=True)
class Case:
    """What a change is told beside the values.

    Attributes:
        layer: the layer that is changed.
        head: the head, where each head is a case.
        position: which of the chosen tokens, where each is a case.
        neurons: the neuron or the name of the group, where each is a case.
        amount: the change's number.
        seed: its seed.
        text: the number of the text that is changed.
    """

    layer: int
    head: int | None
    position: int | None
    neurons: int | str | None
    amount: float
    seed: int
    text: int

    @cached_property
    def rng(self) -> np.random.Generator:
        """Random numbers that depend on seed, layer and text alone."""
        return np.random.default_rng([self.seed, self.layer, self.text])


@dataclass(frozen=True)
class Branch:
    """A text as one case changes it: a row that rides the sweep.

    Attributes:
        index: the case's place along the dimensions of `each`.
        layers: the layers that are changed, ascending.
        text: the text that is changed.
        giver: the text that a patch is taken from; None for other changes.
        run: the number of the text among those that each case changes.
        case: what its change is told, with the first of its layers.
    """

    index: tuple[int, ...]
    layers: tuple[int, ...]
    text: Text
    giver: Text | None
    run: int
    case: Case

    def at(self, layer: int) -> Case:
        """What its change is told at one of its layers."""
        return replace(self.case, layer=layer)


class Cases:
    """All cases of an intervention on some texts of a model.

    Attributes:
        intervention: the intervention.
        texts: all texts of the set.
        runs: the texts that each case changes, in order, each with the giving text of a patch.
        coordinates: what each dimension of `each` runs over, by its name.
        sizes: the model's dimensions.
    """

    def __init__(
        self, intervention: Intervention, sizes: Mapping[str, int], texts: Sequence[Text]
    ) -> None:
        """Find the cases; the intervention fits the model and the texts.

        Args:
            intervention: the intervention.
            sizes: the model's dimensions.
            texts: of the token table.
        """
        self.intervention, self.texts = intervention, list(texts)
        self.sizes = sizes
        pairs = intervention.change.pairs
        self.runs: list[tuple[Text, Text | None]] = (
            [(texts[r], texts[g]) for r, g in pairs] if pairs else [(text, None) for text in texts]
        )
        dimensions = SITES[intervention.site]
        n_heads = sizes[dimensions[0]] if len(dimensions) == 2 else 0
        self.layers = layer_numbers(intervention.layers, sizes["n_layers"])
        change = intervention.change
        heads, neurons = intervention.heads, intervention.neurons
        values: dict[str, Sequence[Any]] = {
            "layer": self.layers,
            "head": heads if isinstance(heads, tuple) else range(n_heads),
            "position": range(len(self.chosen(self.runs[0][0]))),
            "neurons": list(neurons) if isinstance(neurons, dict | tuple) else [],
            "amount": change.amounts,
            "seed": change.seeds,
            "pair": range(len(pairs)),
        }
        self.coordinates: dict[str, Sequence[Any]] = {n: values[n] for n in intervention.each}

    @property
    def shape(self) -> tuple[int, ...]:
        """How many values each dimension of `each` has."""
        return tuple(map(len, self.coordinates.values()))

    def branches(self) -> list[Branch]:
        """A branch for each case and text that it changes, by the first layer that is changed."""
        change = self.intervention.change
        found = []
        for index in product(*map(range, self.shape)):
            chosen = {
                name: values[i]
                for (name, values), i in zip(self.coordinates.items(), index, strict=True)
            }
            layers = (chosen["layer"],) if "layer" in chosen else tuple(self.layers)
            runs = [chosen["pair"]] if "pair" in chosen else range(len(self.runs))
            for run in runs:
                text, giver = self.runs[run]
                case = Case(
                    layers[0],
                    chosen.get("head"),
                    chosen.get("position"),
                    chosen.get("neurons"),
                    chosen.get("amount", change.amounts[0]),
                    chosen.get("seed", change.seeds[0]),
                    text.number,
                )
                found.append(Branch(index, layers, text, giver, run, case))
        return sorted(found, key=lambda branch: branch.layers[0])

    def chosen(self, text: Text, position: int | None = None) -> np.ndarray:
        """The positions of a text's tokens that are changed, (n,): all, or one of them."""
        found = text.positions(self.intervention.tokens)
        return found if position is None else found[position : position + 1]

    def heads(self, case: Case) -> np.ndarray | None:
        """The heads that are changed, (n,); None for all."""
        if case.head is not None:
            return np.array([case.head])
        return self._numbers(self.intervention.heads, case.layer)

    def neurons(self, case: Case) -> np.ndarray | None:
        """The neurons that are changed, (n,); None for all."""
        neurons = self.intervention.neurons
        if isinstance(neurons, dict):
            return self._numbers(neurons[str(case.neurons)], case.layer)
        if case.neurons is not None:
            return np.array([case.neurons])
        return self._numbers(neurons, case.layer)

    def _numbers(self, chosen: Any, layer: int) -> np.ndarray | None:
        if chosen is None:
            return None
        if isinstance(chosen, tuple):
            return np.array(chosen)
        return np.flatnonzero(of_layer(chosen, layer).values)


def of_layer(variable: Any, layer: int) -> Any:
    """A statistic's variable at one layer, if it differs between layers."""
    return variable.sel(layer=layer) if "layer" in variable.dims else variable
