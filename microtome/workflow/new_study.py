"""A study of one's own to begin with: microtome new-study."""

import re
from pathlib import Path

from microtome.errors import MicrotomeError
from microtome.workflow.places import ROOT, known_studies

#: The study that is copied, which docs/extending.md explains file by file, and its name there.
TEMPLATE, EXAMPLE = Path(__file__).with_name("template"), "residual_growth"


def new_study(name: str) -> str:
    """Make the folder `studies/NAME` in the working directory, a study that runs as it stands.

    Args:
        name: of the study.

    Returns:
        What to do next, in a few lines.

    Raises:
        MicrotomeError: no name for a study, one that there is, or a folder that is no place for it.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,99}", name):
        raise MicrotomeError(
            f"{name}: wants lower-case letters, digits and _, the first a letter, at most 100"
        )
    folder = Path("studies", name)
    if folder.exists() or name in known_studies([ROOT]):
        raise MicrotomeError(f"{name}: there is a study of that name; choose another one")
    try:
        folder.mkdir(parents=True)
        for file in sorted(TEMPLATE.iterdir()):
            if file.is_file():
                (folder / file.name).write_text(_renamed(file, name), encoding="utf-8")
    except OSError as error:
        raise MicrotomeError(
            f"{error.filename}: {error.strerror}; work in another folder"
        ) from None
    return (
        f"{folder}: a study that runs as it stands\n"
        f"  microtome run --configfile {folder}/config.yaml\n"
        "  then edit study.yaml, statistics.py and figures.py, and run that again\n"
        "  what each file says: docs/extending.md"
    )


def _renamed(file: Path, name: str) -> str:
    """A file of the template under the study's own name."""
    text = file.read_text(encoding="utf-8")
    title, own = EXAMPLE.replace("_", " ").capitalize(), name.replace("_", " ").capitalize()
    return text.replace(EXAMPLE, name).replace(f"# {title}", f"# {own}")
