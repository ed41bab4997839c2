"""Whether a config can be right: its faults in the user's terms, before any work starts.

Each is found with the path of its key, so that the line which reports it can name the file.
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from microtome.errors import MicrotomeError, in_short, nearest
from microtome.model.architectures import ARCHITECTURES, taps
from microtome.model.checkpoint import read_json, weight_files
from microtome.model.sources import Folder, Untrained, parse_source
from microtome.sites import DIMENSIONS, FINAL_SITES
from microtome.store.checksums import RESULTS
from microtome.texts.documents import read_yaml
from microtome.texts.stimuli import read_stimuli
from microtome.workflow.config import Config, Product, readers, statistics, stimulus_file
from microtome.workflow.config_files import COMMAND_LINE, origin, read_config
from microtome.workflow.signature import Signature, signature

Fault = tuple[tuple[str | int, ...], str]


def check(
    config: Config, schema: Path, files: Sequence[Path], base: Path, given: Config | None = None
) -> None:
    """Refuse a config that cannot be right, before any work starts.

    Args:
        config: the merged config.
        schema: the JSON schema.
        files: the config files it was merged from, the last one winning.
        base: the workflow's folder, with its scripts and the stimulus files that the working
            directory lacks.
        given: what `--config` added to the files.

    Raises:
        MicrotomeError: the first fault, with the file and the key it stands under.
    """
    fault = next(_faults(config, schema, base), None)
    if fault:
        path, message = fault
        contents = {str(file): read_config(file) for file in files}
        if given:
            contents[COMMAND_LINE] = given
        parts = [origin(path, contents), ".".join(map(str, path)), message]
        raise MicrotomeError(" ".join(": ".join(filter(None, parts)).splitlines()))


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
    faults = validator(read_yaml(schema, typed=True)).iter_errors(config)
    for error in sorted(faults, key=lambda error: len(error.path)):
        path = tuple(error.path)
        if error.validator == "additionalProperties":
            known = list(error.schema["properties"])
            key = next(key for key in error.instance if key not in known)
            yield (*path, key), f"unknown key; {nearest(str(key), known)}"
        elif error.schema.get("title") == "name":
            found = in_short(repr(error.instance), width=60)
            yield path, f"{found} is no name: {error.schema['description']}"
        elif error.validator == "required":
            key = next(key for key in error.validator_value if key not in error.instance)
            yield path, f"the key {key!r} is missing{_perhaps_misspelt(config, path)}"
        else:
            found = json.dumps(error.instance, ensure_ascii=False, default=str)
            wanted = error.schema.get("description", error.message)
            yield path, f"{wanted}; has {in_short(found, width=60)}"


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
