"""What is in a product, a folder of products or a model, in a few lines: microtome show.

Files are opened without xarray and torch, and no values are read but for a few tokens.
"""

import os
from difflib import get_close_matches
from pathlib import Path

from microtome.errors import MicrotomeError
from microtome.show.folders import folder_lines
from microtome.show.models import is_model, known_models, model_lines
from microtome.show.products import product_lines


def show(what: str) -> str:
    """Tell in a few lines what is in a product.

    Args:
        what: a product's file, a folder of products, `results`, or a model: its name, its folder
            or its source.

    Raises:
        MicrotomeError: there is no such thing, or a damaged file.
    """
    path = Path(os.path.expanduser(what))
    if path.name in ("manifest.json", "sites.json", "checkpoint"):
        path = path.parent  # the model's
    if "://" in what or (not path.exists() and what in known_models()):
        lines = model_lines(what)
    elif not path.exists():
        raise MicrotomeError(f"{what}: no such file, folder or model{_nearest(path)}")
    elif is_model(path):
        lines = model_lines(str(path))
    else:
        lines = folder_lines(path) if path.is_dir() else product_lines(path)
    return "\n".join(lines)


def _nearest(path: Path) -> str:
    """The end of the message about a path that does not exist: what it may have meant."""
    while not path.parent.is_dir():
        path = path.parent
    known = [file.name for file in path.parent.iterdir() if not file.name.startswith(".")]
    if path.parent == Path():
        known += known_models()
    close = get_close_matches(path.name, known, n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""
