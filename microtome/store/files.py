"""Files that are whole whenever they exist, and what the system says when it refuses one.

A file is written under a temporary name, flushed to disk and renamed: what carries its final
name is whole.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: What the system says when a disk refuses a write, and what helps.
REFUSALS = {
    errno.ENOSPC: "the disk is full; free some space and run again",
    errno.EDQUOT: "the disk quota is used up; free some space and run again",
    errno.EROFS: "the file system is read-only; choose another place with --directory",
    errno.EACCES: "no permission to write there; choose another place with --directory",
    errno.EPERM: "no permission to write there; choose another place with --directory",
}


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; flush and rename it when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.partial")
    try:
        yield unfinished
        with unfinished.open("rb+") as stream:
            os.fsync(stream.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
