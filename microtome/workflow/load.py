"""Functions of studies by file and name: `studies/category_selectivity/statistics.py:rsa`."""

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_NAME = re.compile(r"studies/(\w+)/(captions|changes|statistics|figures|tables)\.py:(\w+)")


def load(name: str) -> Callable[..., Any]:
    """Import a study's function, from `studies/` of the working directory or of the workflow.

    Args:
        name: the file and the function, with a colon between them.
    """
    named = _NAME.fullmatch(name)
    assert named is not None  # the rules make these names
    study, kind, function = named.groups()
    sys.path[:0] = [str(Path.cwd()), str(ROOT)]
    return getattr(importlib.import_module(f"studies.{study}.{kind}"), function)


def named(script: str, folder: Path) -> tuple[Path, str] | None:
    """The function that a job is to call, from the script that Snakemake writes for it.

    Args:
        script: the text of the script, in which the job's params stand.
        folder: the folder that it runs in.

    Returns:
        The file and the function's name; None where the script names none that is there.
    """
    found = _NAME.search(script)
    if found is None:
        return None
    study, kind, function = found.groups()
    files = (base / "studies" / study / f"{kind}.py" for base in (folder, ROOT))
    return next(((file, function) for file in files if file.is_file()), None)
