"""Checkpoint folders of models that are no part of a workflow, made once and kept for later.

They lie in `microtome/` of `$XDG_CACHE_HOME`, which is `$HOME/.cache` by default.
"""

import fcntl
import hashlib
import os
import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from microtome.errors import MicrotomeError
from microtome.models.checkpoint import source_files
from microtome.models.fetch import fetch
from microtome.models.sources import Folder, Package, Source, Untrained


def cached(uri: str, source: Source, *, reference: Path | None = None) -> Path:
    """The checkpoint folder of a source, made by `microtome.models.fetch.fetch` where it is new.

    Args:
        uri: the source's URI.
        source: what `parse_source` made of it.
        reference: the checkpoint folder of the model that an untrained one copies.

    Raises:
        MicrotomeError: what `fetch` finds wrong, or no place to write to.
    """
    folder = _folder(uri, source, reference)
    root = folder.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        with folder.with_name(f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed: two notebooks may want the same
            if not _is_whole(folder):
                fetch(source, folder, reference=reference)
    except OSError as error:
        raise MicrotomeError(
            f"{root}: {error.strerror}; set XDG_CACHE_HOME to a folder that you can write to"
        ) from None
    return folder


def is_there(uri: str, source: Source) -> bool:
    """Whether `cached` would neither fetch nor convert anything.

    Args:
        uri: the source's URI.
        source: what `parse_source` made of it.
    """
    if isinstance(source, Folder) or (isinstance(source, Package) and not source.is_gguf):
        return True  # files of this machine, to which links are made
    return not isinstance(source, Untrained) and _is_whole(_folder(uri, source, None))


def _folder(uri: str, source: Source, reference: Path | None) -> Path:
    """Where a source's checkpoint folder lies, or will lie."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "microtome"
    key = hashlib.sha256(f"{uri} {_state(source, reference)}".encode()).hexdigest()[:16]
    label = re.sub(r"[^\w.-]+", "-", uri)[-60:].strip("-")
    return root / f"{label}-{key}"


def _is_whole(folder: Path) -> bool:
    """Whether a folder has all its files: links lead nowhere once the hub's cache is cleared."""
    return folder.is_dir() and all(file.exists() for file in folder.iterdir())


def _state(source: Source, reference: Path | None) -> object:
    """What a source's bytes depend on beside its URI, and may have changed since."""
    if isinstance(source, Package):
        with suppress(PackageNotFoundError):  # which `fetch` tells better
            return version(source.package)
    folder = source.path if isinstance(source, Folder) else reference
    files = [(file.absolute(), file.stat()) for file in (source_files(folder) if folder else ())]
    return [(str(file), status.st_size, status.st_mtime_ns) for file, status in files]
