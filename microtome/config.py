"""The config: checked in the user's terms, and turned into what each product is made from.

A study is a set of statistics, figures and tables over some models and stimulus sets. A
statistic reads activations (`sites`, `layers`), the token table (`tokens: true`), the checkpoint
itself (`checkpoint: true`) or other statistics (`reads`); figures and tables read statistics.
Any further key of a product is an option of its script.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from microtome.architectures import DIMENSIONS, FINAL_SITES, SITES
from microtome.errors import MicrotomeError, nearest
from microtome.sources import Folder, Untrained, parse_source
from microtome.stimuli import read_stimuli

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Product:
    """A statistic, a figure or a table, as the config asks for it.

    Attributes:
        study: the study it belongs to.
        name: its own name.
        script: the name of its script.
        stimuli: the stimulus set it is about.
        sites: sites of blocks whose activations it reads.
        layers: the layers it reads them from; None is every layer of the model.
        final_sites: sites after the last block that it reads.
        tokens: whether it reads the token table.
        checkpoint: whether it reads the checkpoint: weights, or the model to run.
        reads: the statistics it reads.
        options: what remains, passed to the script.
        of_model: whether it depends on a model at all.
    """

    study: str
    name: str
    script: str
    stimuli: str
    sites: tuple[str, ...]
    layers: tuple[int, ...] | None
    final_sites: tuple[str, ...]
    tokens: bool
    checkpoint: bool
    reads: tuple[str, ...]
    options: dict[str, Any]
    of_model: bool


#: What a statistic may be made from, besides other statistics; all but these depend on no model.
_MODEL_KEYS = ("sites", "tokens", "checkpoint")


def statistics(config: Config, study: str) -> dict[str, Product]:
    """The statistics of a study, by name, in the order of the config."""
    entries = config["studies"][study]["statistics"]

    def of_model(name: str) -> bool:
        entry = entries[name]
        return any(map(entry.get, _MODEL_KEYS)) or any(map(of_model, entry.get("reads", [])))

    return {name: _product(config, study, name, e, of_model(name)) for name, e in entries.items()}


def readers(config: Config, study: str, kind: str) -> dict[str, Product]:
    """The figures or the tables of a study, by name, in the order of the config.

    Args:
        config: the config.
        study: the study.
        kind: `figures` or `tables`.
    """
    made = statistics(config, study)
    return {
        name: _product(config, study, name, e, any(made[read].of_model for read in e["reads"]))
        for name, e in config["studies"][study].get(kind, {}).items()
    }


def _product(config: Config, study: str, name: str, entry: Config, of_model: bool) -> Product:
    layers = entry.get("layers", "all")
    sites = entry.get("sites", ())
    reserved = {"script", "stimuli", "sites", "layers", "reads", "tokens", "checkpoint"}
    return Product(
        study=study,
        name=name,
        script=entry.get("script", name),
        stimuli=entry.get("stimuli", config["studies"][study]["stimuli"]),
        sites=tuple(site for site in sites if site in SITES),
        layers=None if layers == "all" else tuple(sorted(set(layers))),
        final_sites=tuple(site for site in sites if site in FINAL_SITES),
        tokens=entry.get("tokens", False),
        checkpoint=entry.get("checkpoint", False),
        reads=tuple(entry.get("reads", ())),
        options={key: entry[key] for key in sorted(set(entry) - reserved)},
        of_model=of_model,
    )


def product_layers(config: Config, product: Product, model: str) -> list[int]:
    """The layers of a model that a product reads, ascending."""
    if product.layers is None:
        return list(range(config["models"][model]["n_layers"]))
    return list(product.layers)


@dataclass
class Sweep:
    """What the studies together want of one model and stimulus set, in the order of computation.

    Attributes:
        sites: sites of blocks.
        layers: the layers they are wanted from.
        final_sites: sites after the last block.
    """

    sites: list[str]
    layers: list[int]
    final_sites: list[str]


def sweeps(config: Config) -> dict[tuple[str, str], Sweep]:
    """What the studies together want of each (model, stimulus set)."""
    asking: dict[tuple[str, str], list[Product]] = {}
    for study, entry in config["studies"].items():
        for model in entry["models"]:
            for product in statistics(config, study).values():
                if product.sites or product.final_sites:
                    asking.setdefault((model, product.stimuli), []).append(product)
    return {
        (model, stimuli): Sweep(
            [site for site in SITES if any(site in p.sites for p in products)],
            sorted({n for p in products if p.sites for n in product_layers(config, p, model)}),
            [site for site in FINAL_SITES if any(site in p.final_sites for p in products)],
        )
        for (model, stimuli), products in asking.items()
    }


def stimulus_file(config: Config, stimuli: str, base: Path) -> Path:
    """The file of a stimulus set: below the working directory, or else below `base`."""
    file = Path(config["stimuli"][stimuli]).expanduser()
    return file if file.exists() else base / file


def check(config: Config, schema: Path, files: Sequence[Path], base: Path) -> None:
    """Refuse a config that cannot be right, before any work starts.

    Args:
        config: the merged config.
        schema: the JSON schema.
        files: the config files it was merged from, the last one winning.
        base: the workflow's folder, where stimulus files lie that the working directory lacks.

    Raises:
        MicrotomeError: the first fault, with the file and the key it stands under.
    """
    fault = next(_faults(config, schema, base), None)
    if fault:
        path, message = fault
        where = next((str(f) for f in reversed(files) if _holds(f, path)), "config")
        raise MicrotomeError(f"{where}: {'.'.join(map(str, path)) or 'config'}: {message}")


Fault = tuple[tuple[str | int, ...], str]


def _faults(config: Config, schema: Path, base: Path) -> Iterator[Fault]:
    yield from _schema_faults(config, schema)
    yield from _model_faults(config["models"])
    for name in config["stimuli"]:
        try:
            read_stimuli(stimulus_file(config, name, base))
        except MicrotomeError as error:
            yield ("stimuli", name), str(error)
    for study in config["studies"]:
        yield from _study_faults(config, study)


def _schema_faults(config: Config, schema: Path) -> Iterator[Fault]:
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(yaml.safe_load(schema.read_text(encoding="utf-8")))
    for error in sorted(validator.iter_errors(config), key=lambda error: len(error.path)):
        path = tuple(error.path)
        if error.validator == "additionalProperties":
            known = list(error.schema["properties"])
            key = next(key for key in error.instance if key not in known)
            yield (*path, key), f"unknown key; {nearest(str(key), known)}"
        elif error.validator == "pattern" and error.schema.get("title") == "name":
            yield path, f"{error.instance!r} is no name: {error.schema['description']}"
        elif error.validator == "required":
            key = next(key for key in error.validator_value if key not in error.instance)
            yield path, f"the key {key!r} is missing"
        else:
            yield path, error.schema.get("description", error.message)


def _model_faults(models: Config) -> Iterator[Fault]:
    for name, model in models.items():
        path = ("models", name, "source")
        try:
            source = parse_source(
                model["source"], allow_unpinned=model.get("allow_unpinned", False)
            )
        except MicrotomeError as error:
            yield path, str(error)
            continue
        if isinstance(source, Untrained):
            if source.model not in models:
                yield path, f"no model {source.model!r}; {nearest(source.model, list(models))}"
            elif source.model == name or models[source.model]["source"].startswith("untrained:"):
                yield path, f"{source.model!r} is untrained itself; name the model it copies"
        elif isinstance(source, Folder) and not source.path.is_dir():
            yield path, f"{source.path}: no such folder"


def _study_faults(config: Config, study: str) -> Iterator[Fault]:
    entry = config["studies"][study]
    here = ("studies", study)
    for number, model in enumerate(entry["models"]):
        if model not in config["models"]:
            known = list(config["models"])
            yield (*here, "models", number), f"no model {model!r}; {nearest(model, known)}"
    yield from _stimuli_faults(config, here, entry["stimuli"])
    names = list(entry["statistics"])
    for kind in ("statistics", "figures", "tables"):
        for name, product in entry.get(kind, {}).items():
            place = (*here, kind, name)
            if "stimuli" in product:
                yield from _stimuli_faults(config, place, product["stimuli"])
            for site in product.get("sites", ()):
                if site not in DIMENSIONS:
                    yield (*place, "sites"), f"no site {site!r}; {nearest(site, list(DIMENSIONS))}"
            for read in product.get("reads", ()):
                if read not in names:
                    yield (*place, "reads"), f"no statistic {read!r}; {nearest(read, names)}"
            yield from _layer_faults(config, entry["models"], place, product)
    graph = {name: product.get("reads", ()) for name, product in entry["statistics"].items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield (*here, "statistics"), f"these read each other: {', '.join(error.args[1][1:])}"


def _stimuli_faults(config: Config, place: tuple[str, ...], stimuli: str) -> Iterator[Fault]:
    if stimuli not in config["stimuli"]:
        known = list(config["stimuli"])
        yield (*place, "stimuli"), f"no stimuli {stimuli!r}; {nearest(stimuli, known)}"


def _layer_faults(
    config: Config, models: Sequence[str], place: tuple[str, ...], product: Config
) -> Iterator[Fault]:
    for key in ("layer", "layers"):
        value = product.get(key, [])
        for layer in [] if value == "all" else [value] if isinstance(value, int) else value:
            for model in models:
                n_layers = config["models"].get(model, {}).get("n_layers", layer + 1)
                if not 0 <= layer < n_layers:
                    yield (*place, key), f"no layer {layer} in {model}, it has 0 to {n_layers - 1}"


def _holds(file: Path, path: tuple[str | int, ...]) -> bool:
    """Whether a config file has something at a path."""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    for key in path:
        try:
            content = content[key]
        except (KeyError, IndexError, TypeError):
            return False
    return True
