"""Thin sections through language models.

`model`, `sweep`, `lens`, `intervene` and `open` are what a notebook needs, and `studies` has the
functions of the studies (docs/python.md). Below them is the library of the workflow: checkpoints,
token tables, the sweep, the store, statistics and figures. It knows nothing of Snakemake, and
imports torch only where a model runs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from microtome import studies
    from microtome.api import intervene, lens, model, open, sweep

__all__ = ["intervene", "lens", "model", "open", "studies", "sweep"]


def __getattr__(name: str) -> Any:
    """Import one of them when it is first used: numpy and xarray alone take half a second."""
    if name == "studies":
        return import_module("microtome.studies")
    if name in __all__:
        return getattr(import_module("microtome.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Names for tab completion."""
    return __all__
