"""What every script's job does: check inputs, keep a log, tell errors in a line, record outputs."""

import fcntl
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

from microtome.errors import MicrotomeError, in_short
from microtome.store.checksums import forget, record, verify
from microtome.store.files import REFUSALS

#: Environment variable: the run that a job belongs to.
RUN = "MICROTOME_RUN"
#: The last run, and the faults that its jobs have reported, a line each.
FAULTS = Path("results/logs/faults.log")
#: Environment variable: the memory that a fork shares with its parent, in MiB.
SHARED = "MICROTOME_SHARED_MIB"
#: Environment variable: set where Snakemake's logger plugin of Microtome tells what logs say.
LOGGER = "MICROTOME_LOGGER"


@contextmanager
def job(snakemake: Any) -> Iterator[TextIO]:
    """Run a script's body as a job: verify inputs, keep a log, record outputs, report errors.

    What the body prints goes into the log, which ends with the time and memory that the job took.
    An error ends the process with one line, which other jobs of the same run do not repeat.

    Args:
        snakemake: the object that Snakemake gives to a script.

    Yields:
        The open log, for progress bars.
    """
    log_file = Path(snakemake.log[0])
    start = time.monotonic()
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with _locked(log_file.with_suffix(".lock")), log_file.open("w", encoding="utf-8") as log:
            try:
                with redirect_stdout(log), redirect_stderr(log):
                    _in_threads(verify, snakemake.input, snakemake.threads)
                    yield log
                    _in_threads(record, snakemake.output, snakemake.threads)
                log.write(f"{time.monotonic() - start:.1f} s, {_memory()}\n")
                return
            except Exception as error:
                message = _for_user(error, snakemake.output[0])
                for output in snakemake.output:
                    with suppress(OSError):
                        forget(output)
                with suppress(OSError):  # on a full disk, the log cannot be written either
                    if message:
                        log.seek(0)  # what libraries have printed about it only confuses
                        log.truncate()
                    else:
                        traceback.print_exc(file=log)
                    log.write(f"error: {message or f'{type(error).__name__}: {error}'}\n")
                    log.flush()
                    if LOGGER in os.environ:
                        sys.exit(1)
                kind = type(error).__name__
                message = message or f"{kind}: {in_short(error)} (traceback in {log_file})"
    except OSError as error:  # the log itself cannot be written
        message = _for_user(error, str(log_file)) or str(error)
    sys.exit(f"microtome: {message}" if _is_new(message) else 1)


def _in_threads(act: Callable[[str], None], paths: Iterable[str], n_threads: int) -> None:
    """Call a function for many files, in threads: reading and flushing release the GIL."""
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in pool.map(act, paths):
            pass


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Wait for the same job of an earlier run, which continues if only Snakemake was killed."""
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # the system releases it, however the process ends
        yield


def _memory() -> str:
    """The peak memory of this process, without what a fork shares with its parent.

    `getrusage` would include the peak of the process that started this one.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except FileNotFoundError:  # Linux alone has it
        return "memory unknown"
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    if found is None:
        return "memory unknown"
    peak = int(found[1]) / 1024
    shared = float(os.environ.get(SHARED, 0))
    besides = f", besides {shared:.0f} MiB shared with other jobs" if shared else ""
    return f"at most {peak - shared:.0f} MiB resident{besides}"


def _is_new(message: str) -> bool:
    """Whether this is the first job of the run to report a fault; records it."""
    run, line = os.environ.get(RUN), " ".join(message.splitlines())
    if run:
        with suppress(OSError), FAULTS.open("a+", encoding="utf-8") as faults:
            fcntl.flock(faults, fcntl.LOCK_EX)
            faults.seek(0)
            last_run, *reported = faults.read().splitlines() or [""]
            if last_run != run:
                faults.truncate(0)
                faults.write(f"{run}\n")
                reported = []
            if line in reported:
                return False
            faults.write(f"{line}\n")
    return True


def _for_user(error: Exception, output: str) -> str | None:
    """A one-line message for an error that the user can mend; None for any other."""
    if isinstance(error, MicrotomeError):
        return str(error)
    for number, remedy in REFUSALS.items():
        # HDF5's errors have no errno, only a text.
        if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
            return f"{getattr(error, 'filename', None) or output}: {remedy}"
    return None
