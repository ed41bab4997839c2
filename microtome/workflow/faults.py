"""Whether a config can be right: its faults in the user's terms, before any work starts.

Each is found with the path of its key, so that the line which reports it can name the file.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from microtome.errors import MicrotomeError, in_short, nearest
from microtome.model.architectures import taps_of
from microtome.model.checkpoint import config_json, read_json, source_files, weight_files
from microtome.model.sources import Folder, Untrained, parse_source
from microtome.model.taps import ENDS, check_sites
from microtome.sites import SITES
from microtome.store.checksums import RESULTS
from microtome.texts.documents import read_yaml
from microtome.texts.stimuli import read_stimuli
from microtome.workflow.config import LOADER, Config, Studies, stimulus_file, study_folder
from microtome.workflow.study_faults import Fault, study_faults
from microtome.workflow.values import validator


def check(config: Config, schema: Path, files: Sequence[Path], bases: Sequence[Path]) -> None:
    """Refuse a config that cannot be right, before any work starts.

    Args:
        config: the merged config.
        schema: the JSON schema.
        files: the config files it was merged from, the last one winning.
        bases: the folders that `studies/` and `stimuli/` may lie in; the first one wins.

    Raises:
        MicrotomeError: the first fault, with the file and the key it stands under.
    """
    contents = {file: _read(file) for file in files}
    fault = next(_faults(config, schema, bases), None)
    if fault:
        path, message = fault
        contents = _study_files(path, bases) | contents
        # The last file that says so; what none of them says was given with --config.
        holding = (file for file in reversed(contents) if _holds(contents[file], config, path))
        where = next(map(str, holding), "--config")
        parts = [where, ".".join(map(str, path)), message]
        raise MicrotomeError(" ".join(": ".join(filter(None, parts)).splitlines()))


def _study_files(path: tuple[str | int, ...], bases: Sequence[Path]) -> dict[Path, Any]:
    """The study.yaml that a fault may stand in, as if it were a part of the config."""
    folder = study_folder(str(path[1]), bases) if path[:1] == ("studies",) and path[1:] else None
    if folder is None:
        return {}
    file = folder / "study.yaml"
    with suppress(MicrotomeError):
        return {file: {"studies": {path[1]: read_yaml(file, LOADER)}}}
    return {file: {"studies": {path[1]: {}}}}


def _faults(config: Config, schema: Path, bases: Sequence[Path]) -> Iterator[Fault]:
    definitions = read_yaml(schema, LOADER)
    yield from _schema_faults(config, definitions)
    yield from _model_faults(config["models"])
    studies = Studies(config, bases)
    for name in config["studies"]:
        folder = study_folder(name, bases)
        if folder is None:
            known = sorted(
                {f.parent.name for base in bases for f in base.glob("studies/*/study.yaml")}
            )
            yield (
                ("studies", name),
                f"no folder studies/{name} with a study.yaml; {nearest(name, known)}",
            )
        own = {"$defs": definitions["$defs"], **definitions["$defs"]["study"]}
        content = read_yaml(folder / "study.yaml", LOADER)
        for path, message in _schema_faults(content, own):
            yield ("studies", name, *path), message
    for name, study in config["studies"].items():
        for number, model in enumerate(study["models"]):
            if model not in config["models"]:
                remedy = nearest(model, list(config["models"]))
                yield ("studies", name, "models", number), f"no model {model!r}; {remedy}"
    yield from study_faults(studies)
    for name in config.get("stimuli", {}):
        try:
            read_stimuli(stimulus_file(config, name, bases))
        except MicrotomeError as error:
            yield ("stimuli", name), str(error)
    yield from _checkpoint_faults(studies)


def _schema_faults(config: Any, schema: Config) -> Iterator[Fault]:
    faults = validator(schema).iter_errors(config)
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


def _checkpoint_faults(studies: Studies) -> Iterator[Fault]:
    """What does not fit the checkpoints, as far as these are here already."""
    models = studies.config["models"]
    configs: dict[str, Config] = {}
    for name, model in models.items():
        path = ("models", name)
        try:
            configs[name], n_layers = _checkpoint(models, name)
        except MicrotomeError as error:
            yield (*path, "source"), str(error)
            continue
        if n_layers not in (None, model["n_layers"]):
            yield (
                (*path, "n_layers"),
                f"the config says {model['n_layers']}, the checkpoint has {n_layers}; correct the "
                "config",
            )
    for name, product in studies.asked():
        found = configs.get(name, {})
        try:
            if known := taps_of(found):
                check_sites(product.sites, known, found["model_type"])
        except MicrotomeError as error:
            key = "site" if "site" in product.function.options else "sites"
            has = ", ".join(site for site in SITES if site in known or site in ENDS)
            place = ("studies", product.study, "statistics", product.name, key)
            yield place, f"{name}: {error} (it has {has})"


def _checkpoint(models: Config, name: str) -> tuple[Config, int | None]:
    """A model's config.json and number of layers, where its files or its manifest are here."""
    entry = models[name]
    source = parse_source(entry["source"], allow_unpinned=True)
    if isinstance(source, Untrained):
        return _checkpoint(models, source.model)[0], models[source.model]["n_layers"]
    if isinstance(source, Folder):
        source_files(source.path)
        found = config_json(source.path)
        weight_files(source.path)
        sizes = (found.get(key) for key in ("num_hidden_layers", "n_layer", "num_layers"))
        return found, next((n for n in sizes if isinstance(n, int)), None)
    with suppress(OSError, MicrotomeError):
        folder = RESULTS / "models" / name
        manifest = read_json(folder / "manifest.json")
        if manifest.get("source") == entry["source"]:
            found = {"model_type": manifest.get("architecture"), "use_parallel_residual": False}
            with suppress(OSError, MicrotomeError):
                found = read_json(folder / "checkpoint" / "config.json")
            return found, manifest.get("n_layers")
    return {}, None


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
