"""Snakemake's logger plugin `microtome`: one line while a run works, and what went wrong.

    snakemake --logger microtome

On a terminal the line is written again and again in its place; elsewhere, a plain line is written
now and then. A job that fails is named at once and once more at the end, with its log. All that
Snakemake says stays in `.snakemake/log`.

Snakemake finds the package by its name, and imports it at each start: it has to be light.
"""

import os
import re
import shutil
import sys
import threading
import time
from logging import WARNING
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_microtome.failures import Failures, job_name
from snakemake_logger_plugin_microtome.progress import OTHERS, Progress

#: Errors that Snakemake reports besides those of jobs, which say nothing new.
_SAID = re.compile("At least one job did not complete|because a job execution failed")
#: How the process of a job has ended, which Snakemake says before it names the job.
_ENDED = re.compile(r"CalledProcessError in .*' ((?:returned|died) .*?)\.?$", re.S)
#: Environment variable: set where jobs need not tell their errors, which their logs say too.
LOGGER = "MICROTOME_LOGGER"
#: A line is written so often where the output is no terminal, at most, in seconds.
_PAUSE = 5


class LogHandler(LogHandlerBase):
    """Writes to the terminal what a run does, is still to do, and has failed to do."""

    def __post_init__(self) -> None:
        """Prepare; nothing is written before there is something to do."""
        self.progress, self.failures = Progress(), Failures()
        settings = self.common_settings
        self.plain = None
        if settings.dryrun or settings.verbose or settings.debug_dag:
            from snakemake.logging import ColorizingTextHandler, DefaultFormatter

            formatter = DefaultFormatter(settings.quiet, settings.show_failed_logs)
            stream = sys.stdout if settings.stdout else sys.stderr
            self.plain = ColorizingTextHandler(settings.nocolor, stream, formatter)
        self.on_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.complete = ""  # the path of Snakemake's own log
        self.told = 0  # how many jobs were done when one failed
        self.written = ""  # the line that is on the terminal now
        self.last = (0, 0.0)  # tenths done, and the time, when a plain line was last written
        self.ended = threading.Event()
        if not self.plain:
            os.environ[LOGGER] = "1"
        if self.on_terminal and not self.plain:
            threading.Thread(target=self._tick, daemon=True).start()

    writes_to_stream = True
    writes_to_file = False
    has_filter = False
    has_formatter = True
    needs_rulegraph = False

    def emit(self, record: Any) -> None:
        """Take note of an event, and write what follows from it."""
        if self.plain:
            self.plain.emit(record)
            return
        event = getattr(record, "event", None)
        message = record.getMessage()
        match event:
            case LogEvent.RUN_INFO:
                self.progress.begin(record.stats)
                return  # what was planned may be left to other calls
            case LogEvent.RESOURCES_INFO:
                self.progress.remote |= message.startswith("Provided remote nodes")
            case LogEvent.JOB_INFO:
                name = job_name(record.rule_name, record.wildcards)
                self.progress.start(record.jobid, record.rule_name, name, local=record.local)
            case LogEvent.JOB_FINISHED:
                self.progress.finish(record.job_id)
                self.failures.mend(record.job_id)
            case LogEvent.PROGRESS:
                self.progress.plan(record.total)
            case LogEvent.JOB_ERROR:
                self.progress.stop(record.jobid)
                self._write(self.failures.add(record, self.progress.name(record.jobid)))
                self.told = self.progress.done
            case _ if ended := _ENDED.search(message):
                self.failures.how = f"its process {ended[1]}"
            case _ if message.startswith("Trying to restart job"):
                self._write(["  it is tried again"])
            case _ if message.startswith("Complete log"):
                self.complete = os.path.relpath(message.partition(": ")[2])
            case _ if record.levelno >= WARNING and not _SAID.search(message):
                self._write([message])
        self._show()

    def close(self) -> None:
        """Say at the end how many jobs have failed, and why."""
        if not self.ended.is_set():
            self.ended.set()
            assert self.lock is not None  # logging makes one
            with self.lock:
                self._write(self._end())
                self.progress.hand_on()
        super().close()

    def _end(self) -> list[str]:
        """The last lines."""
        progress, failed = self.progress, len(self.failures)
        if failed:
            repeated = self.failures.summary() if failed > 1 or progress.done > self.told else []
            said = f"; all that Snakemake said: {self.complete}" if self.complete else ""
            count = f"{progress.done} of {progress.total} jobs done, {failed} failed{said}"
            return [*repeated, f"microtome: {count}"]
        if self.failures.interrupted:
            count = f"{progress.done} of {progress.total} jobs are done"
            return [f"microtome: interrupted; {count}; run again to go on"]
        if progress.total and OTHERS not in os.environ:
            return [f"{progress.done} jobs done in {progress.spent}"]
        return []

    def _tick(self) -> None:
        """Let the time that is left go down during long jobs."""
        assert self.lock is not None  # logging makes one
        while not self.ended.wait(1):
            with self.lock:
                self._show()

    def _show(self) -> None:
        """Write the line of the moment, where it has changed."""
        if self.ended.is_set() or not self.progress.total:
            return
        if self.on_terminal:
            width = shutil.get_terminal_size().columns - 1
            line = self.progress.line()
            line = line if len(line) <= width else f"{line[: width - 1]}…"
            if line != self.written:
                # Below the cursor, so that what others print does not mix with it.
                self._put(f"\x1b[J\n{line}\x1b[1A\r")
                self.written = line
            return
        tenths, when = self.progress.tenths, time.monotonic()
        begins = not self.last[1]
        if begins or (self.last[0] < tenths < 10 and when - self.last[1] >= _PAUSE):
            self.last = tenths, when
            self._put(f"{self.progress.line()}\n")

    def _write(self, lines: list[str]) -> None:
        """Write lines that stay."""
        if self.on_terminal and (lines or self.ended.is_set()):
            self._put("\x1b[J")
            self.written = ""
        for line in lines:
            self._put(f"{line}\n")

    def _put(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):  # nobody is there any more to read it
            self.ended.set()
