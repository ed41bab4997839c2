"""Atomic writing of files, and messages for when the system refuses to write or cannot read.

A file is written under a temporary name, flushed to disk and renamed, so that a file with its final
name is complete.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from microtome.errors import MicrotomeError

#: Messages for errors of writing that a user can mend, by error number.
REFUSALS = {
    errno.ENOSPC: "the disk is full; free some space and run again",
    errno.EDQUOT: "the disk quota is used up; free some space and run again",
    errno.EROFS: "the file system is read-only; choose another place with --directory",
    errno.EACCES: "no permission to write there; choose another place with --directory",
    errno.EPERM: "no permission to write there; choose another place with --directory",
}


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file atomically.

    Yields:
        A temporary path beside `path` to write to. It is flushed and renamed when the block ends,
        and removed if the block raises.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.partial")
    try:
        yield unfinished
        flush_and_rename(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def flush_and_rename(unfinished: Path, path: Path) -> None:
    """Flush a file that is written to disk, and give it its final name."""
    with unfinished.open("rb+") as stream:
        os.fsync(stream.fileno())
    unfinished.replace(path)


@contextmanager
def removed(path: Path) -> Iterator[Path]:
    """A file for the time being, which is removed when the block ends."""
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Tell in one line what is wrong where a file of the store cannot be read."""
    try:
        yield
    except FileNotFoundError:
        raise MicrotomeError(f"{path}: missing; make it: snakemake {path}") from None
    except OSError as error:
        found = str(error).splitlines()[0]
        raise MicrotomeError(
            f"{path}: damaged ({found}); make it again: snakemake --force {path}"
        ) from None
