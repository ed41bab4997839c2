"""Functions of studies, found by name: `category_selectivity.statistics.rsa`."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> Callable[..., Any]:
    """Import a study's function, from `studies/` of the working directory or of the workflow.

    Args:
        name: study, kind and function, with dots between them.
    """
    sys.path[:0] = [str(Path.cwd()), str(ROOT)]
    module, _, function = f"studies.{name}".rpartition(".")
    return getattr(importlib.import_module(module), function)
