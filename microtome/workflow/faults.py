"""Whether a config can be right: its faults in the user's terms, before any work starts.

Each is found with the path of its key, so that the line which reports it can name the file.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from microtome.errors import MicrotomeError, nearest
from microtome.interventions.declaration import DeclarationError
from microtome.interventions.fit import fit_head, fit_sites
from microtome.models.checkpoint import config_json, read_json, source_files, weight_files
from microtome.models.packages import shipped
from microtome.models.skeleton import Head, names_no_head, require_head
from microtome.models.sources import Folder, Package, Untrained, parse_source
from microtome.models.taps import Sites, check_sites
from microtome.store.checksums import RESULTS
from microtome.texts.documents import read_yaml
from microtome.texts.stimuli import read_set
from microtome.workflow.config import Studies
from microtome.workflow.config_files import COMMAND_LINE, origin, read_config
from microtome.workflow.places import Config, known_stimuli, stimulus_file, study_folder
from microtome.workflow.schema import Fault, schema_faults
from microtome.workflow.study_faults import study_faults


def check(
    config: Config,
    schema: Path,
    files: Sequence[Path],
    bases: Sequence[Path],
    given: Config | None = None,
) -> None:
    """Refuse a config that cannot be right, before any work starts.

    Args:
        config: the merged config.
        schema: the JSON schema.
        files: the config files it was merged from, the last one winning.
        bases: the folders that `studies/` and `stimuli/` may lie in; the first one wins.
        given: what `--config` added to the files.

    Raises:
        MicrotomeError: the first fault, with the file and the key it stands under.
    """
    fault = next(_faults(config, schema, bases), None)
    if fault:
        path, message = fault
        own = _study_file(path, bases)
        contents = own | {str(file): read_config(file) for file in files}
        if given:
            contents[COMMAND_LINE] = given
        where = origin(path, contents)
        parts = [where, ".".join(map(str, path[2:] if where in own else path)), message]
        raise MicrotomeError(" ".join(": ".join(filter(None, parts)).splitlines()))


def _study_file(path: tuple[str | int, ...], bases: Sequence[Path]) -> dict[str, Any]:
    """The study.yaml that a fault may stand in, as if it were a part of the config."""
    folder = study_folder(str(path[1]), bases) if path[:1] == ("studies",) and path[1:] else None
    if folder is None:
        return {}
    file, content = folder / "study.yaml", {}
    with suppress(MicrotomeError):
        content = read_yaml(file, typed=True)
    return {str(file): {"studies": {path[1]: content}}}


def _faults(config: Config, schema: Path, bases: Sequence[Path]) -> Iterator[Fault]:
    definitions = read_yaml(schema, typed=True)
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
            read_set(file, lambda name: stimulus_file(config, name, bases))
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
        elif isinstance(source, Folder) and not os.path.isdir(source.path):
            yield path, f"{source.path}: no such folder; name one that holds a checkpoint"


def _checkpoint_faults(studies: Studies) -> Iterator[Fault]:
    """What does not fit the checkpoints, as far as these are here already."""
    models = studies.config["models"]
    configs: dict[str, Config] = {}
    sites: dict[str, Sites] = {}
    heads: dict[str, Head] = {}
    for name, model in models.items():
        path = ("models", name)
        try:
            configs[name], n_layers = _checkpoint(models, name)
        except MicrotomeError as error:
            yield (*path, "source"), str(error)
            continue
        if names_no_head(configs[name].get("architectures")):
            heads[name] = "none"
        with suppress(OSError, MicrotomeError):
            folder = RESULTS / "models" / name
            manifest = read_json(folder / "manifest.json")
            if manifest.get("source") == model["source"]:
                heads[name] = manifest.get("head", "causal")
                sites[name] = Sites.read(folder / "sites.json")
        if n_layers not in (None, model["n_layers"]):
            yield (
                (*path, "n_layers"),
                f"the config says {model['n_layers']}, the checkpoint has {n_layers}; correct the "
                "config",
            )
    for name, head in heads.items():
        for next_token in (False, True):
            reading = studies.reading_head(name, next_token=next_token)
            if reading is None:
                continue
            try:
                require_head(name, head, next_token=next_token)
            except MicrotomeError as error:
                yield ("studies", reading, "models"), str(error)
    for name, product in studies.asked():
        known = sites.get(name)
        if known is None:
            continue  # judged with the tokens, as soon as it is made
        kind = configs[name].get("model_type")
        if "stored" in product.inputs and not {"pre", "post"} <= known.taps.keys():
            why = known.absent.get("pre", known.absent.get("post"))
            yield product.path, f"{name}: it reads the weights of an MLP of one piece; {why}"
        try:
            if product.intervention:
                fit_head(product.intervention, name, heads[name])
                n_layers = models[name]["n_layers"]
                fit_sites(product.intervention, known.taps, kind, n_layers, known.absent)
            else:
                layers = studies.layers(product, name)
                check_sites(product.sites, known.taps, kind, layers, known.absent)
        except DeclarationError as error:
            yield (*product.path, *error.keys), f"{name}: {error.fault}"
        except MicrotomeError as error:
            key = "site" if "site" in product.function.options else "sites"
            yield (*product.path, key), f"{name}: {error}"


def _checkpoint(models: Config, name: str) -> tuple[Config, int | None]:
    """A model's config.json and number of layers, where its files or its manifest are here."""
    entry = models[name]
    source = parse_source(entry["source"], allow_unpinned=True)
    if isinstance(source, Untrained):
        return _checkpoint(models, source.model)[0], models[source.model]["n_layers"]
    folder = source.path if isinstance(source, Folder) else None
    if isinstance(source, Package) and not source.is_gguf:
        with suppress(MicrotomeError):  # not installed, or without the folder: `fetch` says so
            folder = shipped(source)
    if folder:
        source_files(folder)
        found = config_json(folder)
        weight_files(folder)
        nested = found.get("text_config")  # of a model that sees or hears
        text = nested if isinstance(nested, dict) else found
        sizes = (text.get(key) for key in ("num_hidden_layers", "n_layer", "num_layers"))
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
