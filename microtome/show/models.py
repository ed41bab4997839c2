"""What there is to know of a model, in a few lines: microtome show.

Of a model that the workflow has fetched, its manifest.json and sites.json say all. Any other one is
opened as `microtome.model` opens it, which takes torch to find its sites; nothing is fetched.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from microtome.errors import MicrotomeError
from microtome.models.cache import is_there
from microtome.models.sources import parse_source
from microtome.models.taps import ENDS, Sites
from microtome.show.lines import count, size
from microtome.sites import DIMENSIONS, FINAL_SITES
from microtome.store.checksums import RESULTS
from microtome.workflow.places import ROOT

_HEADS = {"causal": "predicts the next token", "masked": "a masked LM", "none": "without head"}


def known_models() -> list[str]:
    """The names of models that have been fetched here, or that a config of Microtome names."""
    fetched = [file.parent.name for file in (RESULTS / "models").glob("*/manifest.json")]
    return list(dict.fromkeys([*sorted(fetched), *_configured()]))


def is_model(path: Path) -> bool:
    """Whether a folder is a model: one that the workflow has fetched, or a checkpoint."""
    return (path / "manifest.json").is_file() or (path / "config.json").is_file()


def model_lines(what: str) -> list[str]:
    """Tell a model's architecture, sizes and sites.

    Args:
        what: a name that `known_models` knows, a folder that `is_model`, or a source.

    Raises:
        MicrotomeError: a model that is not fetched, or that Microtome cannot run.
    """
    for folder in (RESULTS / "models" / what, Path(os.path.expanduser(what))):
        if (folder / "manifest.json").is_file():
            return _fetched(folder)
    uri = _configured().get(what, what)
    if not is_there(uri, parse_source(uri, allow_unpinned=True)):
        by = "a run" if uri != what else f"microtome.model({what!r})"
        is_source = "" if uri == what else f" ({uri})"
        raise MicrotomeError(f"{what}{is_source}: not fetched yet; {by} fetches it")
    from microtome.api import model

    found = model(uri, allow_unpinned=True)
    about = {"architecture": found.architecture, "head": found.head}
    lines = _about(about, found.sizes, found.found)
    return [f"{what}: a model", *lines, f"  {found.checkpoint}"]


def _configured() -> dict[str, str]:
    """The sources of the models in Microtome's own configs."""
    import yaml

    found: dict[str, str] = {}
    for name in ("config.yaml", "config.book.yaml"):
        if (ROOT / name).exists():
            models = yaml.safe_load((ROOT / name).read_text(encoding="utf-8")).get("models", {})
            found |= {
                model: entry["source"] for model, entry in models.items() if "source" in entry
            }
    return found


def _fetched(folder: Path) -> list[str]:
    """A model that a workflow has fetched."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    sizes = {name: number for name, number in manifest.items() if isinstance(number, int)}
    n_bytes = sum(file["bytes"] for file in manifest["weights"].values())
    weights = [tensor["shape"] for tensor in manifest["tensors"].values()]
    n_parameters = sum(map(math.prod, weights))
    dtypes = ", ".join(sorted({tensor["dtype"] for tensor in manifest["tensors"].values()}))
    return [
        f"{folder}: a model of {n_parameters / 1e6:,.1f} million parameters",
        f"  from {manifest['source']} ({manifest['revision']})",
        *_about(manifest, sizes, Sites.read(folder / "sites.json")),
        f"  {size(n_bytes)} in {count(len(manifest['weights']), 'file')} of {dtypes}",
    ]


def _about(about: Mapping[str, Any], sizes: Mapping[str, int], found: Sites) -> list[str]:
    """The lines of any model."""
    numbers = ", ".join(f"{name} {number:,}" for name, number in sizes.items())
    absent = dict(found.absent)
    if about["head"] == "none":
        absent["logits"] = "without head"
    there = {*found.taps, *ENDS, *FINAL_SITES} - set(absent)
    return [
        f"  {about['architecture']}, {_HEADS[about['head']]}: {numbers}",
        f"  sites: {', '.join(site for site in DIMENSIONS if site in there)}",
        *(f"  no {site}: {absent[site]}" for site in DIMENSIONS if site in absent),
    ]
