"""Modules as they were read, kept in a file: to parse them again would take longest at a start.

What was kept of a file counts only for the same bytes, and only if the same code has read them.
"""

import hashlib
import os
import pickle
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from microtome.workflow import definitions, names, reading
from microtome.workflow.definitions import Module
from microtome.workflow.names import Chain

#: Where they are kept.
KEPT = Path(".snakemake", "microtome-modules.pickle")

#: By file and base, the digest of its bytes and the module.
Modules = dict[tuple[str, str], tuple[bytes, Module]]
#: Those that this process has asked for.
_asked: Modules = {}


def read_module(name: Chain, base: Path, file: Path) -> Module:
    """A file as a module, parsed only if it was not before.

    Args:
        name: the parts of the module's absolute name.
        base: the folder that its name begins at.
        file: the file.

    Raises:
        SyntaxError: the file is not Python.
        ValueError: it has a NUL.
    """
    source = file.read_bytes()
    key, digest = (str(file), str(base)), hashlib.sha256(source).digest()
    found = _asked.get(key) or _kept().get(key)
    if found is None or found[0] != digest:
        found = digest, Module(name, base, file, source)
    _asked[key] = found
    return found[1]


def keep_modules() -> None:
    """Write down all that this process has read, if any of it is new."""
    if _asked.items() <= _kept().items():
        return
    with suppress(OSError):  # then they are parsed again
        KEPT.parent.mkdir(exist_ok=True)
        number, name = tempfile.mkstemp(dir=KEPT.parent)
        with os.fdopen(number, "wb") as file:
            pickle.dump(_reader(), file)
            pickle.dump(_asked, file)
        os.replace(name, KEPT)


@cache
def _kept() -> Modules:
    """What an earlier process has written down."""
    with suppress(Exception), KEPT.open("rb") as file:  # a damaged file may raise anything
        if pickle.load(file) == _reader():
            found: Modules = pickle.load(file)
            return found
    return {}


@cache
def _reader() -> str:
    """What the code that reads modules is."""
    digest = hashlib.sha256(sys.version.encode())
    for module in (definitions, names, reading):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()
