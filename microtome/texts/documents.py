"""YAML files, read with PyYAML; a key that stands twice in one mapping is refused.

PyYAML would keep the last of the two. The libraries that refuse them do not serve: the C parser of
ruamel.yaml (libyaml 0.1.7) refuses the colon in `{source: hf://…}`, its Python parser takes ten
times as long as PyYAML (0.5 s for 20,000 words), and neither reads all numbers as Snakemake does;
strictyaml takes 48 s and refuses `{…}`.
"""

from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from microtome.errors import MicrotomeError, in_short

try:
    # Ten times as fast, where PyYAML has libyaml, as its wheels do.
    from yaml import CBaseLoader as BaseLoader
    from yaml import CSafeLoader as SafeLoader
except ImportError:
    from yaml import BaseLoader, SafeLoader  # type: ignore[assignment]  # which do the same


class _EachKeyOnce(BaseLoader):
    """Reads every scalar as text and refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key, _ in node.value:
            if str(key.value) in keys:
                problem = f"the key {key.value!r} stands there twice; join the two"
                raise ConstructorError(None, None, problem, key.start_mark)
            keys.add(str(key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, *, typed: bool = False) -> Any:
    """Read a YAML file.

    Args:
        path: the file, in UTF-8.
        typed: whether numbers, booleans, dates and null are told apart, as YAML 1.1 does; otherwise
            every scalar is text, so that `no` and `1984` are words.

    Returns:
        Dictionaries, lists and scalars.

    Raises:
        MicrotomeError: no such file, not UTF-8, not YAML, a key twice in one mapping, or a file
            that refers to itself. The message names the line where the fault is in the text.
    """
    text = _read_text(path)
    try:
        content = yaml.load(text, _EachKeyOnce)
        return yaml.load(text, SafeLoader) if typed else content
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise MicrotomeError(
            f"{path}, line {line}: has the control character #x{error.character:02x}; take it out"
        ) from None
    except yaml.MarkedYAMLError as error:
        assert error.problem is not None and error.problem_mark is not None  # all have them
        line = error.problem_mark.line
        problem = f"not YAML ({error.problem}); quote texts with a colon or #, close what is open"
        if error.problem.startswith("the key"):
            problem = error.problem
        elif "recursive" in error.problem:
            problem = "refers to itself: an alias (*) stands inside what its anchor (&) marks; "
            problem += "write it out"
        elif "\t" in "".join(text.splitlines()[line : line + 1]):
            problem = f"not YAML ({error.problem}); indent with spaces"
        raise MicrotomeError(f"{path}, line {line + 1}: {problem}") from None
    except ValueError as error:  # what looks like a date or a number and is none
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
