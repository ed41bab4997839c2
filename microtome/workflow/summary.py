"""What a run has made, where to look, and what to try next."""

import os
from pathlib import Path

from microtome.store.checksums import RESULTS
from microtome.workflow.places import ROOT

#: Where a reader begins.
PAGE = RESULTS / "page" / "index.html"


def summary(*, first: bool) -> str:
    """Tell what lies in `results/`: in five lines after a first run, in two after another.

    Args:
        first: whether it was the first run here.
    """
    figures, tables = _made("figures", "png"), _made("tables", "csv")
    of = [file.parts[2:-1] for file in figures + tables]  # study and model; the study alone
    studies = sorted({study for study, *_ in of})
    models = sorted({model for _, *rest in of for model in rest})
    lines = [
        f"Up to date: {len(figures)} figures and {len(tables)} tables; studies: {len(studies)}, "
        f"models: {len(models)}",
        f"Open {PAGE} in a browser. Pictures: {RESULTS}/figures/  Numbers: {RESULTS}/tables/",
    ]
    if first and models:
        places = (base / "studies" / studies[0] / "figures.py" for base in (Path(), ROOT))
        drawn = next((file for file in places if file.exists()), "its figures.py")
        lines += [
            f"Next: edit a function in {drawn} and run again; its figure alone is drawn anew.",
            f"      microtome show {models[-1]}: what is in a model, or in any file or folder",
            f"      microtome new-study NAME: a study of your own; {_document('extending.md')}",
        ]
    return "\n".join(lines)


def _document(name: str) -> str:
    """The path of one of Microtome's documents, from here."""
    return os.path.relpath(ROOT / "docs" / name)


def _made(kind: str, extension: str) -> list[Path]:
    return sorted((RESULTS / kind).rglob(f"*.{extension}"))
