"""What an intervention declares, as docs/interventions.md says it.

`microtome.interventions.declared` reads it from a config or from keyword arguments.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from microtome.errors import MicrotomeError
from microtome.options import layer_numbers

#: What cases may differ in.
VARYING = ("layer", "head", "position", "neurons", "amount", "seed", "pair")
#: The axes of the chosen values that a change may go along.
AXES = ("heads", "tokens", "neurons")
#: What is read of a prediction at each token.
PREDICTIONS = ("logits", "log_probabilities", "kl", "logits_difference")
#: Of these, one number that compares the prediction with the clean run's.
COMPARED = ("kl", "logits_difference")
#: What is kept of a site that is read.
KEPT = ("values", "difference", "cosine")
#: The keys of each change beside its own name; `seed` is a list where the cases differ in it.
CHANGES: dict[str, tuple[str, ...]] = {
    "zero": (),
    "scale": (),
    "add": ("vector",),
    "noise": ("of", "seed"),
    "patch": ("from", "align"),
    "mean": ("largest", "by"),
    "median": ("largest", "by"),
    "permute": ("seed",),
    "project": ("by", "centered"),
    "use": ("amount", "seed"),
}


class DeclarationError(MicrotomeError):
    """What is wrong with a declaration.

    Attributes:
        keys: the keys that lead to it.
        fault: what is wrong there.
    """

    def __init__(self, keys: tuple[str, ...], fault: str) -> None:
        """Tell a fault, in one line that begins with the keys."""
        super().__init__(": ".join(filter(None, (".".join(keys), fault))))
        self.keys, self.fault = keys, fault


@dataclass(frozen=True)
class Reference:
    """A variable of a statistic.

    Attributes:
        statistic: its name, or `study.statistic`.
        variable: the variable's name.
    """

    statistic: str
    variable: str


#: Numbers of layers, or shares of the depth, as in `20%`; None for all.
Layers = tuple[int | str, ...] | None

#: Numbers, a statistic's variable (also an xarray.DataArray itself), or None for all.
Chosen = tuple[int, ...] | Reference | Any | None


@dataclass(frozen=True)
class Tokens:
    """Tokens of a text.

    Attributes:
        kind: `all`, `last`, `positions`, `word` or `mask`.
        positions: of `positions`, negative from the end.
        onwards: whether all that follow the first of them belong to them too.
    """

    kind: str = "all"
    positions: tuple[int, ...] = ()
    onwards: bool = False


@dataclass(frozen=True)
class Vector:
    """A direction: the difference between two texts at the site, in the clean run.

    Attributes:
        texts: the numbers of the two; the second one's mean is taken from the first one's.
        tokens: of which tokens the means are.
    """

    texts: tuple[int, int]
    tokens: Tokens


@dataclass(frozen=True)
class Change:
    """What becomes of the chosen values; see docs/interventions.md.

    Attributes:
        kind: a key of `CHANGES`.
        amounts: its number, or several where the cases differ in it.
        seeds: its seed, or several.
        pairs: of `patch`, the numbers of the receiving and the giving text.
        over: the axes that `mean`, `median` and `permute` go along; `texts` for all texts.
        by: `value` or `magnitude`, `components` or `variance`.
        vector: of `add`: a `Reference`, a DataArray or a `Vector`; None for ones.
        of_sd: of `noise`, whether the amount counts the values' own standard deviations.
        position: of `patch`, the giving text's one position; None for that of each token.
        align: of `patch`, `start`, `end`, or None where texts are equally long.
        centered: of `project`, the axes over which means are taken out.
        function: of `use`, its name, or the function itself.
    """

    kind: str
    amounts: tuple[float, ...] = (1.0,)
    seeds: tuple[int, ...] = (0,)
    pairs: tuple[tuple[int, int], ...] = ()
    over: tuple[str, ...] = ()
    by: str = ""
    vector: Any = None
    of_sd: bool = False
    position: int | None = None
    align: str | None = None
    centered: tuple[str, ...] = ()
    function: str | Callable[..., Any] = ""


@dataclass(frozen=True)
class SiteRead:
    """What is read of a site.

    Attributes:
        tokens: at which tokens.
        layers: of which layers.
        kept: names of `KEPT`.
    """

    tokens: Tokens
    layers: Layers
    kept: tuple[str, ...]


@dataclass(frozen=True)
class Read:
    """What is read.

    Attributes:
        predictions: names of `PREDICTIONS`.
        tokens: where predictions are read.
        targets: tokens of the vocabulary, by their texts; `clean` for the one that the clean run
            finds most likely at each token, `next` for the one that follows it in the text; empty
            for all, unless `top` is given.
        top: how many of the highest.
        loss: whether the texts' losses are read.
        sites: what is read of each site.
    """

    predictions: tuple[str, ...] = ()
    tokens: Tokens = Tokens()
    targets: tuple[str, ...] | str = ()
    top: int = 0
    loss: bool = False
    sites: dict[str, SiteRead] = field(default_factory=dict)


@dataclass(frozen=True)
class Intervention:
    """An intervention.

    Attributes:
        site: where values are changed.
        each: names of `VARYING`; the cases are all combinations.
        layers: the layers that are changed.
        heads: the heads.
        neurons: places along the site's last dimension, or groups of them by name.
        tokens: the tokens.
        change: what becomes of the chosen values.
        read: what is read.
    """

    site: str
    each: tuple[str, ...]
    layers: Layers
    heads: Chosen
    neurons: Chosen | dict[str, Chosen]
    tokens: Tokens
    change: Change
    read: Read

    @property
    def references(self) -> dict[tuple[str, ...], Reference]:
        """The statistics' variables that it takes values from, each by the keys that name it."""
        taken = {("heads",): self.heads, ("change", "vector"): self.change.vector}
        if isinstance(self.neurons, dict):
            taken |= {("neurons", name): group for name, group in self.neurons.items()}
        else:
            taken["neurons",] = self.neurons
        return {keys: value for keys, value in taken.items() if isinstance(value, Reference)}

    def at_depth(self, n_layers: int) -> "Intervention":
        """The same in a model of so many layers: numbers in the places of shares of the depth."""

        def numbers(layers: Layers) -> Layers:
            return None if layers is None else tuple(layer_numbers(layers, n_layers))

        sites = {
            site: replace(of, layers=numbers(of.layers)) for site, of in self.read.sites.items()
        }
        read = replace(self.read, sites=sites)
        return replace(self, layers=numbers(self.layers), read=read)

    def resolved(self, find: Callable[[Reference], Any]) -> "Intervention":
        """The same with the statistics' variables themselves in the places of references.

        Args:
            find: gives the variable of a reference, an xarray.DataArray.

        Raises:
            DeclarationError: a variable that is not there.
        """

        def value(keys: tuple[str, ...], held: Any) -> Any:
            if not isinstance(held, Reference):
                return held
            try:
                return find(held)
            except MicrotomeError as error:
                raise DeclarationError(keys, str(error)) from None

        neurons = value(("neurons",), self.neurons)
        if isinstance(neurons, dict):
            neurons = {name: value(("neurons", name), group) for name, group in neurons.items()}
        change = replace(self.change, vector=value(("change", "vector"), self.change.vector))
        return replace(self, heads=value(("heads",), self.heads), neurons=neurons, change=change)
