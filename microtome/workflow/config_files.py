"""Config files: those that cannot be read are refused, and messages name the one a key is from.

Snakemake reads and merges the files itself, and its merged config is what is checked and used.
Here they are read for two things only: to refuse what cannot be read, and to say which file a key
comes from.
"""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from microtome.errors import MicrotomeError, in_short
from microtome.texts.documents import read_yaml

#: What the config given with `--config` is called in messages.
COMMAND_LINE = "--config"


def read_config(path: Path) -> dict[Any, Any]:
    """Read a config file, YAML or JSON.

    Scalars may differ from what Snakemake makes of them (it reads YAML 1.1); keys do not, but for
    `yes`, `no`, `on` and `off`.

    Raises:
        MicrotomeError: what `read_yaml` refuses, no mapping, or one that contains itself.
    """
    content = read_yaml(path, "safe")
    if not isinstance(content, dict):
        found = "nothing" if content is None else in_short(repr(content), width=60)
        raise MicrotomeError(f"{path}: wants keys, as in `style: {{dpi: 100}}`; has {found}")
    try:
        json.dumps(content, skipkeys=True, default=str)
    except ValueError:  # a circular reference
        raise MicrotomeError(
            f"{path}: refers to itself: an alias (*name) stands inside what its anchor (&name) "
            "marks; write it out"
        ) from None
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
    refuse_unreadable(parser.parse_known_args()[0].configfile)


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
