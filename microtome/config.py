"""The config: checked in the user's terms, and turned into what each product is made from.

A study is a set of statistics, figures and tables over some models and stimulus sets. A
statistic reads activations (`sites`, `layers`), the token table (`tokens: true`), the checkpoint
itself (`checkpoint: true`) or other statistics (`reads`); figures and tables read statistics.
Any further key of a product is an option of its script, which has to know it.
"""

import json
import math
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from microtome.architectures import ARCHITECTURES, DIMENSIONS, FINAL_SITES, SITES, taps
from microtome.checkpoint import read_json, weight_files
from microtome.documents import read_yaml
from microtome.errors import MicrotomeError, nearest
from microtome.products import RESULTS
from microtome.signature import Signature, signature
from microtome.sources import Folder, Untrained, parse_source
from microtome.stimuli import read_stimuli

Config = Mapping[str, Any]

#: Ten times as fast where PyYAML has libyaml, as its wheels do.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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
        swept: whether its script sweeps the model itself, so that no activations are stored.
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
    swept: bool
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
    reserved = {"script", "stimuli", "sites", "layers", "reads", "tokens", "checkpoint", "swept"}
    swept = entry.get("swept", False)
    return Product(
        study=study,
        name=name,
        script=entry.get("script", name),
        stimuli=entry.get("stimuli", config["studies"][study]["stimuli"]),
        sites=tuple(site for site in sites if site in SITES),
        layers=None if layers == "all" else tuple(sorted(set(layers))),
        final_sites=tuple(site for site in sites if site in FINAL_SITES),
        tokens=entry.get("tokens", False) or swept,
        checkpoint=entry.get("checkpoint", False) or swept,
        swept=swept,
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
        start: the first block that is run.
        stop: the block at which another job goes on; None where this is the last one.
    """

    sites: list[str]
    layers: list[int]
    final_sites: list[str]
    start: int = 0
    stop: int | None = None


def sweeps(config: Config) -> dict[tuple[str, str], Sweep]:
    """What the studies together want of each (model, stimulus set)."""
    asking: dict[tuple[str, str], list[Product]] = {}
    for study, entry in config["studies"].items():
        for model in entry["models"]:
            for product in statistics(config, study).values():
                if (product.sites or product.final_sites) and not product.swept:
                    asking.setdefault((model, product.stimuli), []).append(product)
    return {
        (model, stimuli): Sweep(
            [site for site in SITES if any(site in p.sites for p in products)],
            sorted({n for p in products if p.sites for n in product_layers(config, p, model)}),
            [site for site in FINAL_SITES if any(site in p.final_sites for p in products)],
        )
        for (model, stimuli), products in asking.items()
    }


def parts(config: Config, model: str, wanted: Sweep) -> list[Sweep]:
    """A sweep as the jobs that make it, each of as many blocks as the config gives a job."""
    n_blocks = config["models"][model]["n_layers"] if wanted.final_sites else wanted.layers[-1] + 1
    size = config["sweep"].get("layers_per_job", n_blocks)
    jobs = []
    for start in range(0, n_blocks, size):
        stop = start + size if start + size < n_blocks else None
        layers = [layer for layer in wanted.layers if start <= layer < (stop or n_blocks)]
        sites = wanted.sites if layers else []
        jobs.append(Sweep(sites, layers, [] if stop else wanted.final_sites, start, stop))
    return jobs


def product_sweep(config: Config, product: Product, model: str) -> Sweep:
    """What a statistic that is made in the sweep wants of a model."""
    layers = product_layers(config, product, model) if product.sites else []
    return Sweep(list(product.sites), layers, list(product.final_sites))


def stimulus_file(config: Config, stimuli: str, base: Path) -> Path:
    """The file of a stimulus set: below the working directory, or else below `base`."""
    entry = config["stimuli"][stimuli]
    file = os.path.expanduser(entry if isinstance(entry, str) else entry["file"])
    return Path(file) if os.path.exists(file) else base / file


def tokens_kept(config: Config, stimuli: str) -> str | list[int]:
    """Whose activations a stimulus set asks for: all, last, mean, or positions in each text."""
    entry = config["stimuli"][stimuli]
    return "all" if isinstance(entry, str) else entry.get("tokens", "all")


def check(config: Config, schema: Path, files: Sequence[Path], base: Path) -> None:
    """Refuse a config that cannot be right, before any work starts.

    Args:
        config: the merged config.
        schema: the JSON schema.
        files: the config files it was merged from, the last one winning.
        base: the workflow's folder, with its scripts and the stimulus files that the working
            directory lacks.

    Raises:
        MicrotomeError: the first fault, with the file and the key it stands under.
    """
    contents = {file: _read(file) for file in files}
    fault = next(_faults(config, schema, base), None)
    if fault:
        path, message = fault
        # The last file that says so; what none of them says was given with --config.
        holding = (file for file in reversed(files) if _holds(contents[file], config, path))
        where = next(map(str, holding), "--config")
        parts = [where, ".".join(map(str, path)), message]
        raise MicrotomeError(" ".join(": ".join(filter(None, parts)).splitlines()))


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
        yield from _script_faults(config, study, base)
    yield from _checkpoint_faults(config)


def _schema_faults(config: Config, schema: Path) -> Iterator[Fault]:
    from jsonschema import Draft202012Validator, validators

    # JSON takes 30.0 for an integer, and Python's YAML reads numbers that are none.
    types = Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda checker, value: type(value) is int,
            "number": lambda checker, value: type(value) in (int, float) and abs(value) < math.inf,
        }
    )
    validator = validators.extend(Draft202012Validator, type_checker=types)
    faults = validator(read_yaml(schema, LOADER)).iter_errors(config)
    for error in sorted(faults, key=lambda error: len(error.path)):
        path = tuple(error.path)
        if error.validator == "additionalProperties":
            known = list(error.schema["properties"])
            key = next(key for key in error.instance if key not in known)
            yield (*path, key), f"unknown key; {nearest(str(key), known)}"
        elif error.schema.get("title") == "name":
            yield path, f"{error.instance!r} is no name: {error.schema['description']}"
        elif error.validator == "required":
            key = next(key for key in error.validator_value if key not in error.instance)
            yield path, f"the key {key!r} is missing{_perhaps_misspelt(config, path)}"
        else:
            found = json.dumps(error.instance, ensure_ascii=False, default=str)
            found = textwrap.shorten(found, width=60, placeholder=" …")
            yield path, f"{error.schema.get('description', error.message)}; has {found}"


def _perhaps_misspelt(config: Config, path: tuple[str | int, ...]) -> str:
    """Whether what stands at a path may be meant for what stands beside it under a like name.

    An overlay that misspells a name does not change that entry but begins another one.
    """
    if not path:
        return ""
    beside: Any = config
    for key in path[:-1]:
        beside = beside[key]
    close = get_close_matches(str(path[-1]), [str(key) for key in beside if key != path[-1]], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


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
            copied = models.get(source.model)
            if copied is None:
                yield path, f"no model {source.model!r}; {nearest(source.model, list(models))}"
            elif source.model == name or copied["source"].startswith("untrained:"):
                yield path, f"{source.model!r} is untrained itself; name the model it copies"
        elif isinstance(source, Folder):
            if not os.path.isdir(source.path):
                yield path, f"{source.path}: no such folder; name one that holds a checkpoint"
            elif not (source.path / "config.json").is_file():
                yield path, f"{source.path}: no config.json; name a folder that holds a checkpoint"


def _checkpoint_faults(config: Config) -> Iterator[Fault]:
    """What does not fit the checkpoints, as far as these are here already."""
    models = config["models"]
    for name, model in models.items():
        path = ("models", name)
        try:
            architecture, n_layers = _checkpoint(models, name)
        except MicrotomeError as error:
            yield (*path, "source"), str(error)
            continue
        if n_layers not in (None, model["n_layers"]):
            yield (
                (*path, "n_layers"),
                f"the config says {model['n_layers']}, the checkpoint has {n_layers}; correct the "
                "config",
            )
        for study, entry in config["studies"].items():
            for statistic in statistics(config, study).values() if name in entry["models"] else ():
                try:
                    if architecture in ARCHITECTURES:
                        taps(SimpleNamespace(model_type=architecture), list(statistic.sites))
                except MicrotomeError as error:
                    place = ("studies", study, "statistics", statistic.name, "sites")
                    yield place, f"{name}: {error}"


def _checkpoint(models: Config, name: str) -> tuple[str | None, int | None]:
    """A model's architecture and number of layers, where its files or its manifest are here."""
    entry = models[name]
    source = parse_source(entry["source"], allow_unpinned=True)
    if isinstance(source, Untrained):
        return _checkpoint(models, source.model)[0], models[source.model]["n_layers"]
    if isinstance(source, Folder):
        found = read_json(source.path / "config.json")
        weight_files(source.path)
        sizes = (found.get(key) for key in ("num_hidden_layers", "n_layer", "num_layers"))
        return found.get("model_type"), next((n for n in sizes if isinstance(n, int)), None)
    with suppress(OSError, MicrotomeError):
        manifest = read_json(RESULTS / "models" / name / "manifest.json")
        if manifest.get("source") == entry["source"]:
            return manifest.get("architecture"), manifest.get("n_layers")
    return None, None


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
        circle = ", ".join(error.args[1][1:])
        yield (*here, "statistics"), f"these read each other: {circle}; take one of the reads out"
    yield from _chosen_layer_faults(entry, here)


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


def _chosen_layer_faults(study: Config, here: tuple[str, ...]) -> Iterator[Fault]:
    """Layers that a product picks out of statistics which were not made from them."""

    def layers(statistic: Config) -> list[set[int]]:
        """The layers of the activations a statistic is made from, where they are not all."""
        own = statistic.get("layers", "all") if "sites" in statistic else "all"
        above = [made for name in statistic.get("reads", ()) for made in layers(entries[name])]
        return above if own == "all" else [set(own), *above]

    entries = study["statistics"]
    for kind in ("statistics", "figures", "tables"):
        for name, product in study.get(kind, {}).items():
            if "layer" in product:
                for read in product.get("reads", ()):
                    for made in layers(entries[read]):
                        if product["layer"] not in made:
                            known = ", ".join(map(str, sorted(made)))
                            yield (
                                (*here, kind, name, "layer"),
                                f"{read!r} has no layer {product['layer']}; it has {known}",
                            )


def _script_faults(config: Config, study: str, base: Path) -> Iterator[Fault]:
    """Products without a script, and what scripts want that they do not get, or the reverse."""
    for kind, products in {
        "statistics": statistics(config, study),
        "figures": readers(config, study, "figures"),
        "tables": readers(config, study, "tables"),
    }.items():
        for name, product in products.items():
            path = ("studies", study, kind, name)
            script = base / "scripts" / kind / study / f"{product.script}.py"
            if not script.is_file():
                known = sorted(file.stem for file in script.parent.glob("*.py"))
                remedy = nearest(product.script, known) if known else "write it"
                yield path, f"{script}: no such script; {remedy}"
                continue
            try:
                takes = signature(script, base)
            except MicrotomeError as error:
                yield path, str(error)
                continue
            yield from _option_faults(path, product, takes)
            for wanted in sorted(takes.inputs - _inputs(product)):
                remedy = _INPUTS.get(wanted, f"add {wanted!r} to `reads`")
                yield path, f"its script reads {wanted!r} ({script}); {remedy}"


def _option_faults(path: tuple[str, ...], product: Product, takes: Signature) -> Iterator[Fault]:
    if takes.options is None:
        return
    given = set(product.options)
    for option in sorted(given - takes.options, key=str):
        free = sorted(takes.options - given) or sorted(takes.options)
        remedy = nearest(str(option), free) if free else "its script takes none; take it out"
        yield (*path, option), f"unknown option; {remedy}"
    for option in sorted(takes.required - given):
        yield path, f"the option {option!r} is missing; its script wants it"


#: What gives a script the inputs that are no statistics.
_INPUTS = {
    "layers": "give it `sites` of blocks",
    "final": f"add {' or '.join(FINAL_SITES)} to `sites`",
    "tokens": "write `tokens: true`",
    "manifest": "write `checkpoint: true`",
    "checkpoint": "write `checkpoint: true`",
}


def _inputs(product: Product) -> set[str]:
    """The names under which a product's script finds its inputs."""
    present = {
        "layers": product.sites and not product.swept,
        "final": product.final_sites and not product.swept,
        "tokens": product.tokens,
        "manifest": product.checkpoint,
        "checkpoint": product.checkpoint,
    }
    return {*product.reads, *(name for name, given in present.items() if given)}


def _read(file: Path) -> Any:
    """A config file, JSON or YAML, as Snakemake reads it."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return read_yaml(file, LOADER)


def _holds(content: Any, config: Any, path: tuple[str | int, ...]) -> bool:
    """Whether a config file has something at a path, the same as the merged config if a value."""
    for key in path:
        try:
            content, config = content[key], config[key]
        except (KeyError, IndexError, TypeError):
            return False
    return content == config or (isinstance(content, dict) and isinstance(config, dict))
