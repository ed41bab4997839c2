"""What a user did wrong or can mend, and how a job reports it: one line, never a traceback."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from difflib import get_close_matches
from pathlib import Path
from typing import TextIO


class MicrotomeError(Exception):
    """An error the user can mend; its message is one line with the place, the fault, the remedy."""


def nearest(name: str, known: list[str]) -> str:
    """The end of a message about an unknown name: its nearest right name, or all of them."""
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


@contextmanager
def job_log(path: str | Path) -> Iterator[TextIO]:
    """Send a job's output to its log, and end it with one line on stderr if it fails.

    Args:
        path: the job's log file, overwritten.

    Yields:
        The open log, for progress bars.
    """
    with Path(path).open("w", encoding="utf-8") as log:
        try:
            with redirect_stdout(log), redirect_stderr(log):
                yield log
            return
        except MicrotomeError as error:
            message = str(error)
        except Exception as error:
            traceback.print_exc(file=log)
            message = f"{type(error).__name__}: {error} (traceback in {path})"
        log.write(f"error: {message}\n")
    sys.exit(f"microtome: {message}")
