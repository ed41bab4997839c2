"""A product: an intervention, a statistic, a figure or a table, and what it is made from."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from microtome.interventions.declaration import Intervention
from microtome.interventions.declared import declared
from microtome.options import NEXT_TOKEN, layer_number, layer_numbers
from microtome.sites import FINAL_SITES, SITES
from microtome.workflow.functions import REQUIRED, Function
from microtome.workflow.places import Config

#: Products that are labelled datasets, which others may read.
DATASETS = ("interventions", "statistics")
KINDS = (*DATASETS, "figures", "tables")
#: The file of a study's own changes, which interventions use.
CHANGES = "changes.py"
#: Inputs of statistics that are no products themselves, as `microtome.workflow.inputs` provides
#: them; besides, each site by its own name, with its activations stacked over all layers.
INPUTS = ("section", "lens", "tokens", "stored", "tokenizer")
#: Keys of a product that are no options of its function.
KEYS = ("use", "reads", "stimuli", "layers")


@dataclass(frozen=True)
class Product:
    """An intervention, a statistic, a figure or a table.

    Attributes:
        kind: one of `KINDS`.
        study: the study it belongs to.
        name: its own name.
        function: the function that makes it.
        stimuli: the stimulus set it is about; None if it reads no texts.
        layers: the layers it reads, by number or by a share of the depth; None is every layer of
            the model.
        options: the options that it is given; the declaration of an intervention.
        reads: the products it reads, by the parameter that each is given to. An intervention calls
            them as its declaration does.
        n_layers: how many layers the model has that it is made of; None where it stands for that
            product of any model.
    """

    kind: str
    study: str
    name: str
    function: Function
    stimuli: str | None
    layers: tuple[int | str, ...] | None
    options: dict[str, Any]
    reads: "dict[str, Product]"
    n_layers: int | None = None

    @property
    def path(self) -> tuple[str, ...]:
        """The keys that lead to it in the config."""
        return ("studies", self.study, self.kind, self.name)

    @property
    def stem(self) -> str:
        """Where it lies, without an extension; one of no model lies in the study's own folder."""
        folder = "{model}/" if self.of_model else ""
        return f"results/{self.kind}/{self.study}/{folder}{self.name}"

    def option(self, name: str) -> Any:
        """The value of an option of its function, the default if it is not given, or None."""
        known = self.function.options.get(name)
        if known is None:
            return None
        return self.options.get(name, None if known.default is REQUIRED else known.default)

    @cached_property
    def intervention(self) -> Intervention | None:
        """What it declares; None if it is no intervention."""
        if self.kind != "interventions":
            return None
        found = declared(self.options)
        return found if self.n_layers is None else found.at_depth(self.n_layers)

    @property
    def code(self) -> tuple[Path, str] | None:
        """Its study's own function, by file and name; few interventions have one."""
        if self.intervention is None:
            return self.function.file, self.function.name
        used = self.intervention.change.function
        own = isinstance(used, str) and used
        return (self.function.file.with_name(CHANGES), own) if own else None

    @cached_property
    def inputs(self) -> frozenset[str]:
        """Its inputs that are no products."""
        return frozenset(self.function.inputs) - set(self.reads)

    @property
    def providers(self) -> frozenset[str]:
        """The functions of `microtome.workflow.inputs` that make its inputs."""
        named = self.inputs & set(INPUTS)
        each = "section" in named and "layer" not in self.function.options
        others = {"by_layer": each, "stacked": bool(self.inputs - named)}
        return named.union(name for name, wanted in others.items() if wanted)

    @property
    def streamed(self) -> bool:
        """Whether it is made in a sweep, so that no activations are stored."""
        return self.kind == "statistics" and self.function.streamed

    @property
    def runs_model(self) -> bool:
        """Whether its job runs the model."""
        return self.streamed or self.intervention is not None

    @cached_property
    def chosen_sites(self) -> list[str]:
        """The sites of its `section`, or of the sweep it is made in, in the order of the config."""
        if not (self.streamed or "section" in self.inputs):
            return []
        one = self.option("site")
        return [one] if one else list(self.option("sites") or ())

    @cached_property
    def sites(self) -> list[str]:
        """The sites of blocks whose activations it reads."""
        asked = {*self.chosen_sites, *self.inputs}
        return [site for site in SITES if site in asked]

    @cached_property
    def final_sites(self) -> list[str]:
        """The sites after the last block that it reads."""
        return [site for site in FINAL_SITES if site in self.inputs]

    @property
    def reads_head(self) -> bool:
        """Whether it reads what the model's head predicts."""
        if self.intervention:
            return bool(self.intervention.read.predictions or self.intervention.read.loss)
        return "logits" in self.final_sites or "lens" in self.inputs

    @property
    def reads_next_token(self) -> bool:
        """Whether it takes what it reads for predictions of the next token."""
        return any(NEXT_TOKEN in needs for needs in self.function.inputs.values())

    @property
    def reads_texts(self) -> bool:
        """Whether it is about the texts of a stimulus set."""
        return self.streamed or bool(self.inputs - {"stored", "tokenizer"})

    @property
    def reads_tokens(self) -> bool:
        """Whether it reads the token table."""
        return self.streamed or "tokens" in self.inputs

    @property
    def reads_checkpoint(self) -> bool:
        """Whether it reads the checkpoint."""
        return self.runs_model or bool(self.inputs & {"stored", "tokenizer"})

    @cached_property
    def of_model(self) -> bool:
        """Whether it depends on a model at all."""
        return (
            self.streamed or bool(self.inputs) or any(read.of_model for read in self.reads.values())
        )

    def at_depth(self, n_layers: int) -> "Product":
        """The same of a model of so many layers: numbers in the places of shares of the depth."""
        layers = self.layers
        if layers is not None:
            layers = tuple(layer_numbers(layers, n_layers))
        shares = {
            name: layer_number(self.option(name), n_layers)
            for name, option in self.function.options.items()
            if option.type == "Layer" and isinstance(self.option(name), str)
        }
        reads = {name: read.at_depth(n_layers) for name, read in self.reads.items()}
        options = self.options | shares
        return replace(self, layers=layers, options=options, reads=reads, n_layers=n_layers)

    def family(self) -> "Iterator[Product]":
        """Itself and all that it is made from."""
        yield self
        for read in self.reads.values():
            yield from read.family()


def declaration(entry: Config) -> dict[str, Any]:
    """What an entry of `interventions` declares, as `declared` reads it."""
    return {key: value for key, value in entry.items() if key != "stimuli"}


def is_input(parameter: str) -> bool:
    """Whether a parameter of a statistic is an input that is no product itself."""
    return parameter in INPUTS or parameter in SITES or parameter in FINAL_SITES
