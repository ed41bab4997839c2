"""YAML as people write it: read as UTF-8, every key once, and refused in one line."""

from pathlib import Path
from typing import Any

import yaml

from microtome.errors import MicrotomeError


def read_yaml(path: Path, loader: type) -> Any:
    """Read a YAML file.

    Args:
        path: the file.
        loader: one of PyYAML's loaders: how scalars are read.

    Raises:
        MicrotomeError: no such file, not UTF-8, not YAML, or a key twice in one mapping, of which
            YAML itself would silently keep the last.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MicrotomeError(f"{path}: no such file; correct the path") from None
    except OSError as error:
        raise MicrotomeError(f"{path}: {error.strerror}; name a file that can be read") from None
    except UnicodeDecodeError as error:
        raise MicrotomeError(f"{path}: byte {error.start} is not UTF-8; save it as such") from None
    except ValueError as error:
        raise MicrotomeError(f"{str(path)!r}: {error}; correct the path") from None
    try:
        reading = loader(text)
        try:
            node = reading.get_single_node()
            _refuse_repeated_keys(path, node)
            return reading.construct_document(node) if node else None
        finally:
            reading.dispose()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise MicrotomeError(
            f"{path}, line {line}: has the control character #x{error.character:02x}; take it out"
        ) from None
    except yaml.MarkedYAMLError as error:
        remedy = "quote texts with a colon or #, close what is open"
        if "'\\t'" in str(error.problem):
            remedy = "indent with spaces"
        raise MicrotomeError(
            f"{path}, line {error.problem_mark.line + 1}: not YAML ({error.problem}); {remedy}"
        ) from None


def _refuse_repeated_keys(path: Path, root: yaml.Node | None) -> None:
    seen: set[int] = set()  # an alias leads to the same node again
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            keys: set[tuple[str, str]] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if (key.tag, key.value) in keys:
                        raise MicrotomeError(
                            f"{path}, line {key.start_mark.line + 1}: the key {key.value!r} "
                            "stands there twice; join the two"
                        )
                    keys.add((key.tag, key.value))
                waiting.append(value)
