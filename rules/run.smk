# What a run does besides its jobs: a lock, servers that fork scripts, a report of failures on
# Slurm. Snakemake calls only the main Snakefile's handlers. A workflow that imports this one as a
# module calls `begin_run` and `report_slurm_failures` itself: see docs/importing.md.
import fcntl
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from snakemake.logging import logger
from snakemake.script import PythonScript
from snakemake.shell import shell
from snakemake_interface_logger_plugins.common import LogEvent

from microtome.store.files import REFUSALS
from microtome.workflow import forks
from microtome.workflow.jobs import LOGGER, RUN
from microtome.workflow.run import leave_to_stages

# On a cluster's node, Snakemake inherits the run that it was submitted by.
os.environ.setdefault(RUN, f"{os.getpid()}-{time.time_ns()}")


def refuse_unwritable(folder):
    """Exit with one line if a folder cannot be written to.

    Args:
        folder: its name below the working directory; if missing, the working directory is tried.
    """
    place = Path(folder) if Path(folder).exists() else Path.cwd()
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        remedy = f"{error.strerror}; choose another place with --directory"
        sys.exit(f"microtome: {place.resolve()}: {REFUSALS.get(error.errno, remedy)}")


# Snakemake writes there after it has read the rules, and ends with a traceback if it cannot.
refuse_unwritable(".snakemake")


def begin_run():
    """Prepare a run, before its first job; once, also if two modules are this workflow."""
    if hasattr(workflow, "microtome_run"):
        return
    workflow.microtome_run = os.environ[RUN]
    refuse_unwritable("results")
    acquire_run_lock()
    leave_to_stages(workflow.dag)
    disable_job_rate_limit()
    start_fork_servers()
    logger.addHandler(slurm_failures)


#: The servers, which end with this process.
fork_servers = []


def acquire_run_lock():
    """Exit if another run is at work in this folder.

    Snakemake's own lock stays when a run is killed, and has to be removed by hand. The system
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

    With the limit, each job starts a timer that makes the scheduler check the inputs of all waiting
    jobs every second until the end: half of the CPU time of a run with 150 jobs. No option turns
    it off. If Snakemake drops these attributes, runs are slower.
    """
    scheduler = getattr(workflow, "scheduler", None)
    limiter = getattr(scheduler, "job_rate_limiter", None)
    if limiter and (limiter.max_jobs, limiter.timespan) == (100, 1):
        scheduler.job_rate_limiter = None


def start_fork_servers():
    """Run the scripts of this repository as forks of processes that have imported their packages.

    Nothing else that a workflow runs has to do with it.
    """
    # If Snakemake drops this method, scripts run without a server: slower, but right.
    execute = getattr(PythonScript, "_execute_cmd", None)
    if execute is None:
        return
    servers = {}
    for name in (forks.MODEL_SERVER, forks.SERVER):
        servers[name] = os.environ.get(name)
        if servers[name] is None and (started := forks.start_server()):
            process, servers[name] = started
            fork_servers.append(process)

    def execute_by_server(script, command, **values):
        ours = Path(str(script.path)).resolve().parent == forks.ROOT / "scripts"
        plain = values.get("py_exec") == sys.executable and not script.bench_record
        # A prefix that a workflow gives all its commands wants a shell.
        if ours and plain and not shell._process_prefix and not shell._process_suffix:
            of_model = "checkpoint" in {*script.input.keys(), *script.output.keys()}
            server = servers[forks.MODEL_SERVER if of_model else forks.SERVER]
            request = forks.Request(values["fname"], os.getcwd(), environment_of(script))
            status = server and forks.run_by_server(server, request)
            if status is not None:
                if status:
                    raise subprocess.CalledProcessError(status, f"{sys.executable} {script.path}")
                return None
        return execute(script, command, **values)

    PythonScript._execute_cmd = execute_by_server


def environment_of(script):
    """The environment that Snakemake's `shell` gives a script."""
    names = [f"{library}_NUM_THREADS" for library in ("OMP", "GOTO", "OPENBLAS", "MKL", "NUMEXPR")]
    threads = dict.fromkeys([*names, "VECLIB_MAXIMUM_THREADS"], str(script.threads))
    folder = script.resources.get("tmpdir")
    folders = dict.fromkeys(["TMPDIR", "TMP", "TEMPDIR", "TEMP"], folder) if folder else {}
    return os.environ | threads | folders


class SlurmFailures(logging.Handler):
    """A log handler that keeps the jobs that Slurm ended, until a retry succeeds.

    The executor plugin gives a job's state only in the message of Snakemake's job error.
    """

    def __init__(self):
        super().__init__()
        self.jobs = {}

    def emit(self, record):
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_ERROR:
            state = re.search(r"SLURM status is: '(\w+)'", str(record.rule_msg))
            if state:
                logs = Path(record.log[0]), record.log[-1]
                self.jobs[record.jobid] = (record.rule_name, state[1], *logs)
        elif event == LogEvent.JOB_FINISHED:
            self.jobs.pop(record.job_id, None)


slurm_failures = SlurmFailures()


def report_slurm_failures():
    """Print a line for each job that Slurm ended for good, unless its script reported an error."""
    if LOGGER in os.environ:
        return  # the logger plugin tells it
    for rule, state, log_file, slurm_log in slurm_failures.jobs.values():
        if not log_file.exists() or "error: " not in log_file.read_text(encoding="utf-8"):
            print(f"microtome: {rule}: ended by Slurm ({state}); see {slurm_log}", file=sys.stderr)
