"""Where studies and stimulus sets lie: below the working directory, or below the workflow."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from microtome.errors import MicrotomeError

Config = Mapping[str, Any]

#: The folder of this repository.
ROOT = Path(__file__).parents[2]


def snakefile() -> Path:
    """The workflow's Snakefile.

    Raises:
        MicrotomeError: only the package has been installed, without its repository.
    """
    file = ROOT / "Snakefile"
    if not file.exists():
        raise MicrotomeError(
            f"{file}: missing; the workflow runs from its repository: clone that, and install it "
            "there with `make .venv/installed`"
        )
    return file


def study_folder(name: str, bases: Iterable[Path]) -> Path | None:
    """The folder of a study: below the first of these places that has it."""
    folders = (base / "studies" / name for base in bases)
    return next((folder for folder in folders if (folder / "study.yaml").is_file()), None)


def known_studies(bases: Iterable[Path]) -> list[str]:
    """The names of all studies that have a folder."""
    return sorted(
        {file.parent.name for base in bases for file in base.glob("studies/*/study.yaml")}
    )


def stimulus_file(config: Config, stimuli: str, bases: Sequence[Path]) -> Path:
    """The file of a stimulus set; where no folder has it, its place in the first one."""
    entry = config.get("stimuli", {}).get(stimuli, {})
    file = os.path.expanduser(entry.get("file", f"stimuli/{stimuli}.yaml"))
    found = (base / file for base in bases if (base / file).exists())
    return next(found, bases[0] / file)


def known_stimuli(bases: Iterable[Path]) -> list[str]:
    """The names of all stimulus sets that have a file of their name."""
    return sorted({file.stem for base in bases for file in base.glob("stimuli/*.yaml")})
