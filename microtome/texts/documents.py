"""YAML files, read with ruamel.yaml, which refuses a key that stands twice in one mapping.

YAML itself would silently keep the last of the two.
"""

from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError

from microtome.errors import MicrotomeError, in_short


def read_yaml(path: Path, typ: Literal["base", "safe"]) -> Any:
    """Read a YAML file.

    Args:
        path: the file, in UTF-8.
        typ: how scalars are read: `base` takes each as text, `safe` tells numbers, booleans and
            dates apart, as YAML 1.2 does.

    Returns:
        Dictionaries, lists and scalars; None for an empty file.

    Raises:
        MicrotomeError: no such file, not UTF-8, not YAML, or a key twice in one mapping. Where
            the parser knows the line, the message names it.
    """
    text = _read_text(path)
    try:
        return YAML(typ=typ).load(text)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise MicrotomeError(
            f"{path}, line {line}: has the control character #x{error.character:02x}; take it out"
        ) from None
    except DuplicateKeyError as error:
        key = error.problem.split('"')[1]  # found duplicate key "style" with value …
        raise MicrotomeError(
            f"{path}, line {error.problem_mark.line + 1}: the key {key!r} stands there twice; "
            "join the two"
        ) from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line
        remedy = "quote texts with a colon or #, close what is open"
        if "\t" in "".join(text.splitlines()[line : line + 1]):
            remedy = "indent with spaces"
        raise MicrotomeError(
            f"{path}, line {line + 1}: not YAML ({error.problem}); {remedy}"
        ) from None
    except ValueError as error:  # a date or a number that looks like one and is none
        raise MicrotomeError(f"{path}: not YAML ({in_short(error)}); quote it as a text") from None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MicrotomeError(f"{path}: no such file; correct the path") from None
    except OSError as error:
        raise MicrotomeError(f"{path}: {error.strerror}; name a file that can be read") from None
    except UnicodeDecodeError as error:
        raise MicrotomeError(f"{path}: byte {error.start} is not UTF-8; save it as such") from None
    except ValueError as error:
        raise MicrotomeError(f"{str(path)!r}: {error}; correct the path") from None
