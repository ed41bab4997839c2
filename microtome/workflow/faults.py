"""Whether a config can be right: its faults in the user's terms, before any work starts.

Each is found with the path of its key, so that the line which reports it can name the file.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from microtome.errors import MicrotomeError, nearest
from microtome.model.architectures import ARCHITECTURES, taps
from microtome.model.checkpoint import read_json, weight_files
from microtome.model.sources import Folder, Untrained, parse_source
from microtome.store.checksums import RESULTS
from microtome.texts.documents import read_yaml
from microtome.texts.stimuli import read_stimuli
from microtome.workflow.config import (
    LOADER,
    Config,
    Studies,
    known_stimuli,
    stimulus_file,
    study_folder,
)
from microtome.workflow.schema import Fault, schema_faults
from microtome.workflow.study_faults import study_faults


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
    yield from schema_faults(config, definitions)
    yield from _model_faults(config["models"])
    for name, study in config["studies"].items():
        for number, model in enumerate(study["models"]):
            if model not in config["models"]:
                remedy = nearest(model, list(config["models"]))
                yield ("studies", name, "models", number), f"no model {model!r}; {remedy}"
    for name in config.get("stimuli", {}):
        file = stimulus_file(config, name, bases)
        if "file" not in config["stimuli"][name] and not file.exists():
            remedy = nearest(name, known_stimuli(bases))
            yield ("stimuli", name), f"no stimulus set {name!r} ({file}); {remedy}"
        try:
            read_stimuli(file)
        except MicrotomeError as error:
            yield ("stimuli", name), str(error)
    studies = Studies(config, bases)
    yield from study_faults(studies, definitions["$defs"])
    yield from _checkpoint_faults(studies)


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
    architectures = {}
    for name, model in models.items():
        path = ("models", name)
        try:
            architectures[name], n_layers = _checkpoint(models, name)
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
        found = architectures.get(name)
        if "stored" in product.inputs and found not in (None, *ARCHITECTURES):
            known = ", ".join(ARCHITECTURES)
            yield product.path, f"{name}: the MLP of {found!r} is not known; known: {known}"
        try:
            if found in ARCHITECTURES:
                taps(SimpleNamespace(model_type=found), product.sites)
        except MicrotomeError as error:
            key = "site" if "site" in product.function.options else "sites"
            yield (*product.path, key), f"{name}: {error}"


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
