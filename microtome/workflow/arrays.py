"""Tasks of a Slurm job array, each of which has to become a job of its own.

Snakemake's Slurm plugin (2.8.0, with jobstep 0.6.1) starts the first job of an array in every task,
and the task's own job below it. The first job's process then waits for the first job's files, and
fails without them; where its own job fails, it removes them
(https://github.com/snakemake/snakemake-executor-plugin-slurm/issues/447).
"""

import base64
import json
import os
import sys
import zlib
from collections.abc import Mapping, Sequence

#: The option by which the plugin tells each task the commands of all tasks but the first.
COMMANDS = "--slurm-jobstep-array-execs"


def own_command(arguments: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """The shell command of this task's own job; None in its first task, and outside of an array.

    Args:
        arguments: those of this process.
        environment: its environment.
    """
    task = environment.get("SLURM_ARRAY_TASK_ID")
    if task is None or task == environment.get("SLURM_ARRAY_TASK_MIN"):
        return None
    line = "\0".join(arguments)
    if COMMANDS not in line:
        return None
    # One argument with =, or two.
    given = line.partition(COMMANDS)[2][1:].partition("\0")[0].strip("'\"")
    commands = json.loads(base64.b64decode(given))
    return zlib.decompress(bytes.fromhex(commands[task])).decode()


def become_own_task() -> None:
    """In a task of an array but the first, run the task's own job in place of this process."""
    command = own_command(sys.argv, os.environ)
    if command is not None:
        os.execv("/bin/sh", ["sh", "-c", command])
