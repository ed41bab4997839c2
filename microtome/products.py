"""Products: how a job writes its files, and how the next one knows that they are still whole.

A file is written under a temporary name, flushed to disk and renamed: what carries its final
name is whole. When a job ends well, the SHA-256 of each of its outputs goes into
`results/checksums/`, in the form of `sha256sum`; before a job reads an input from `results/`,
it compares. `python -m microtome.products` compares every product.
"""

import errno
import fcntl
import hashlib
import os
import re
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

from microtome.errors import MicrotomeError, in_short

#: Where products lie, below the working directory, and their checksums.
RESULTS, CHECKSUMS = Path("results"), Path("results/checksums")
#: The folders of `results/` that hold products; logs, benchmarks and reports are none.
KINDS = ("models", "tokens", "activations", "statistics", "figures", "tables")

#: What the system says when a disk refuses a write, and what helps.
_REFUSALS = {
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


@contextmanager
def job(snakemake: Any) -> Iterator[TextIO]:
    """Run a script's body: inputs compared, output to the log, errors in one line, outputs noted.

    The log ends with what the job took.

    Args:
        snakemake: the object that Snakemake gives to a script.

    Yields:
        The open log, for progress bars.
    """
    log_file = Path(snakemake.log[0])
    start = time.monotonic()
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with _alone(log_file.with_suffix(".lock")), log_file.open("w", encoding="utf-8") as log:
            try:
                with redirect_stdout(log), redirect_stderr(log):
                    _each(verify, snakemake.input, snakemake.threads)
                    yield log
                    _each(record, snakemake.output, snakemake.threads)
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                log.write(f"{time.monotonic() - start:.1f} s, at most {peak:.0f} MiB resident\n")
                return
            except Exception as error:
                message = _mendable(error, snakemake.output[0])
                with suppress(OSError):  # a full disk takes no log either
                    if message:
                        log.seek(0)  # what else libraries said of it helps nobody
                        log.truncate()
                    else:
                        traceback.print_exc(file=log)
                    log.write(f"error: {message or error}\n")
                    log.flush()
                kind = type(error).__name__
                message = message or f"{kind}: {in_short(error)} (traceback in {log_file})"
    except OSError as error:  # the log itself cannot be written
        message = _mendable(error, str(log_file)) or str(error)
    sys.exit(f"microtome: {message}")


def _each(check: Callable[[str], None], paths: Iterable[str], n_threads: int) -> None:
    """Compare or note many files: reading and flushing them leaves the interpreter free."""
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in pool.map(check, paths):
            pass


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait for the same job of an earlier run, which goes on if only its main process died."""
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # let go of by the system, however the process ends
        yield


def _mendable(error: Exception, output: str) -> str | None:
    """What to tell a user who can mend it, in one line; None of a fault of Microtome's own."""
    if isinstance(error, MicrotomeError):
        return str(error)
    for number, remedy in _REFUSALS.items():
        # HDF5 has no errno to ask, only its text.
        if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
            return f"{getattr(error, 'filename', None) or output}: {remedy}"
    return None


def record(path: str | Path, known: Mapping[str, str] | None = None) -> None:
    """Note the SHA-256 of a product, or of every file in a folder that is one.

    A folder's files (a checkpoint's, as large as a model) are not read again if they are noted and
    of the same size and time.

    Args:
        path: the product.
        known: SHA-256 of files of a folder that have just been read, by name; these are noted in
            any case.
    """
    path, known = Path(path), known or {}
    for file in _files(path) if _is_product(path) else []:
        if path.is_dir() and file.name not in known and _untouched(file):
            continue
        status = file.stat()
        with replacing(_checksum_file(file)) as unfinished:
            unfinished.write_text(
                f"# {status.st_size} bytes, mtime {status.st_mtime_ns} ns\n"
                f"{known.get(file.name) or sha256(file)}  {file.as_posix()}\n",
                encoding="utf-8",
            )


def verify(path: str | Path) -> None:
    """Compare a product with what was recorded when it was made; other files pass.

    A folder (a checkpoint, as large as a model) is read again only where size or time changed.

    Raises:
        MicrotomeError: it differs, or nothing is on record.
    """
    path = Path(path)
    for file in _files(path) if _is_product(path) else []:
        if not (path.is_dir() and _untouched(file)):
            fault = _fault(file)
            if fault:
                raise MicrotomeError(f"{fault}; delete {path} and run again")


def _is_product(path: str | Path) -> bool:
    return Path(path).parts[:1] == RESULTS.parts


def _fault(file: Path) -> str | None:
    """What is wrong with a product, or None."""
    try:
        recorded = _checksum_file(file).read_text(encoding="utf-8").splitlines()[-1].split()[0]
    except (FileNotFoundError, IndexError):
        return f"{file}: no checksum on record"
    try:
        found = sha256(file)
    except FileNotFoundError:
        return f"{file}: missing"
    return None if found == recorded else f"{file}: changed or damaged since it was made"


def _untouched(file: Path) -> bool:
    return file.exists() and _noted(file) == _size_and_time(file)


def _size_and_time(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _noted(file: Path) -> list[int] | None:
    """The size and time that a product had when its checksum was recorded."""
    try:
        first = _checksum_file(file).read_text(encoding="utf-8").splitlines()[0]
    except (FileNotFoundError, IndexError):
        return None
    return [int(number) for number in re.findall(r"\d+", first)]


def size_and_time(file: Path, link: Path) -> list[int]:
    """A file's size in bytes and its time in ns, by which a change is known.

    Args:
        file: the file.
        link: a product's file that may be a link to it. Where only its time differs from what is on
            record, and not its content, the time on record is returned.
    """
    now, noted = _size_and_time(file), _noted(link)
    if noted is None or now[0] != noted[0] or not link.exists() or not link.samefile(file):
        return now
    return noted if now == noted or _fault(link) is None else now


def _files(path: Path) -> list[Path]:
    """A product itself, or the files of a folder, less those that Snakemake marks folders with."""
    if not path.is_dir():
        return [path]
    return sorted(f for f in path.rglob("*") if not f.is_dir() and not f.name.startswith("."))


def _checksum_file(file: Path) -> Path:
    return CHECKSUMS / file.relative_to(RESULTS).with_name(f"{file.name}.sha256")


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def main() -> None:
    """Compare every product in `results/` with its checksum and name those that differ."""
    files = [file for kind in KINDS for file in _files(RESULTS / kind) if file.exists()]
    faults = [fault for file in files if (fault := _fault(file))]
    for fault in faults:
        print(fault)
    if faults:
        sys.exit(f"{len(faults)} of {len(files)} products differ: delete them and run again")
    print(f"{len(files)} products, all as they were made")


if __name__ == "__main__":
    main()
