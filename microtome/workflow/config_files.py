"""Config files: those that cannot be read are refused, and messages name the one a key is from.

Snakemake reads and merges the files itself, and its merged config is what is checked and used.
Here they are read for two things only: to refuse what cannot be read, and to say which file a key
comes from.
"""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from microtome.errors import MicrotomeError, in_short
from microtome.texts.documents import read_yaml

#: What the config given with `--config` is called in messages.
COMMAND_LINE = "--config"


def read_config(path: Path) -> dict[Any, Any]:
    """Read a config file, JSON or YAML, as Snakemake does.

    Raises:
        MicrotomeError: what `read_yaml` refuses, a key twice, or a file that is no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text, object_pairs_hook=partial(_each_key_once, path))
    except (OSError, ValueError):  # no JSON
        content = read_yaml(path, typed=True)
    if not isinstance(content, dict):
        found = "nothing" if content is None else in_short(repr(content), width=60)
        raise MicrotomeError(f"{path}: wants keys, as in `style: {{dpi: 100}}`; has {found}")
    return content


def _each_key_once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of a JSON file into a dictionary."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise MicrotomeError(f"{path}: the key {twice!r} stands there twice; join the two")
    return content


def refuse_unreadable(files: Sequence[Path]) -> None:
    """End the program with one line if a config file cannot be read."""
    try:
        for file in files:
            read_config(file)
    except MicrotomeError as error:
        sys.exit(f"microtome: {error}")


def refuse_unreadable_overlays() -> None:
    """Do so for the files that `--configfile` names on Snakemake's command line.

    Snakemake opens them before it reads the Snakefile, and most faults end in a traceback. The
    profiles call this, since they are read earlier still.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--configfile", "--configfiles", nargs="*", type=Path, default=[])
    files = parser.parse_known_args()[0].configfile
    for file in files:
        if file.parts[:1] == ("results",):  # what is to be made
            sys.exit(f"microtome: {file}: taken for a config file; name it before --configfile")
    refuse_unreadable(files)


def origin(path: Sequence[str | int], contents: Mapping[str, Any]) -> str:
    """The place a key of the merged config comes from: the last one that has it.

    Args:
        path: the keys that lead to it. Where no place has all of them, as many as possible count.
        contents: what each place says, by its name, the last one winning.
    """
    names = list(contents)
    return max(reversed(names), key=lambda name: _shared(contents[name], path))


def _shared(content: Any, path: Sequence[str | int]) -> int:
    """How many keys of a path lead somewhere."""
    for depth, key in enumerate(path):
        try:
            content = content[key]
        except (KeyError, IndexError, TypeError):
            return depth
    return len(path)
