"""The job of a script: inputs compared, output to the log, errors in one line, outputs noted."""

import fcntl
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

from microtome.errors import MicrotomeError, in_short
from microtome.store.checksums import record, verify
from microtome.store.files import REFUSALS


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
    for number, remedy in REFUSALS.items():
        # HDF5 has no errno to ask, only its text.
        if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
            return f"{getattr(error, 'filename', None) or output}: {remedy}"
    return None
