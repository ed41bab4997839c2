# What a run does besides its jobs: a lock, a server that scripts are forks of, a report of what
# Slurm ended. Snakemake calls the handlers of the main Snakefile alone, so that a workflow that
# imports this one as a module calls `begin_run` and `report_slurm_failures` in its own.
import fcntl
import logging
import os
import re
import sys
import tempfile
import time
from pathlib import Path

from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

from microtome.store.files import REFUSALS
from microtome.workflow import forks
from microtome.workflow.jobs import RUN

# The Snakemake that a cluster starts on a node belongs to the run that submitted it.
os.environ.setdefault(RUN, f"{os.getpid()}-{time.time_ns()}")


def refuse_unwritable(folder):
    """Refuse a folder that takes no files, in one line.

    Args:
        folder: below the working directory, in place of which that one is tried if it is missing.
    """
    place = Path(folder) if Path(folder).exists() else Path.cwd()
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        remedy = f"{error.strerror}; choose another place with --directory"
        sys.exit(f"microtome: {place.resolve()}: {REFUSALS.get(error.errno, remedy)}")


# Snakemake writes there once it has read the rules, and ends with a traceback if it cannot.
refuse_unwritable(".snakemake")


def begin_run():
    """Prepare a run, once its jobs are known."""
    refuse_unwritable("results")
    acquire_run_lock()
    disable_job_rate_limit()
    forget_planned_params()
    start_fork_server()
    logger.addHandler(slurm_failures)


def acquire_run_lock():
    """Refuse to run beside another run in the same folder.

    Snakemake's own lock outlives a run that is killed, and has to be removed by hand. The system
    releases this one when the process ends.
    """
    global run_lock
    run_lock = open(".snakemake/microtome.lock", "w")
    try:
        fcntl.flock(run_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(
            f"microtome: {Path.cwd()}: another run is at work here; wait for its end, or choose "
            "another folder with --directory"
        )


def disable_job_rate_limit():
    """Remove Snakemake's default limit of 100 jobs per second, which no run comes near.

    With a limit, each job leaves a timer behind that makes the scheduler check the inputs of all
    waiting jobs once a second until the end: half of the CPU time of a run with 150 jobs. No
    option turns it off. Where Snakemake has no such attribute, runs are only slower.
    """
    limiter = getattr(workflow.scheduler, "job_rate_limiter", None)
    if limiter and (limiter.max_jobs, limiter.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None


def start_fork_server():
    """Run the scripts of this repository as forks of one process that has imported their packages.

    Shell commands and scripts of other workflows run as they would without it.
    """
    global fork_server
    bash = os.path.basename(shell.get_executable() or "") == "bash"
    started = forks.start_server() if bash else None
    if started:
        fork_server, route = started
        # Without this attribute, a prefix that another workflow has set would be lost.
        prefix = getattr(shell, "_process_prefix", None)
        if prefix is None:
            prefix = 'test -z "$BASH_VERSION" || set -euo pipefail; '
        shell.prefix(f"{route}{prefix}".replace("{", "{{").replace("}", "}}"))


class SlurmFailures(logging.Handler):
    """The jobs that Slurm ended and that did not end well later, by job id.

    The executor plugin knows a job's state, but tells it in the message of the job's error alone.
    """

    def __init__(self):
        super().__init__()
        self.jobs = {}

    def emit(self, record):
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_ERROR:
            state = re.search(r"SLURM status is: '(\w+)'", record.rule_msg or "")
            if state:
                logs = Path(record.log[0]), record.log[-1]
                self.jobs[record.jobid] = (record.rule_name, state[1], *logs)
        elif event == LogEvent.JOB_FINISHED:
            self.jobs.pop(record.job_id, None)


slurm_failures = SlurmFailures()


def report_slurm_failures():
    """Name the jobs that Slurm ended for good, a line each; a script's own error has its line."""
    for rule, state, log_file, slurm_log in slurm_failures.jobs.values():
        if not log_file.exists() or "error: " not in log_file.read_text(encoding="utf-8"):
            print(f"microtome: {rule}: ended by Slurm ({state}); see {slurm_log}", file=sys.stderr)
