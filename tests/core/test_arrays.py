"""Which command a task of a Slurm job array runs."""

import base64
import json
import subprocess
import sys
import zlib

import pytest

from microtome.workflow.arrays import COMMANDS, own_command

#: As the plugin packs the commands of all tasks but the first.
PACKED = {str(task): zlib.compress(f"echo task {task}".encode()).hex() for task in (2, 3)}
PAYLOAD = base64.b64encode(json.dumps(PACKED).encode()).decode()
#: As a command line has them, by `--wrap` and by a script.
FORMS = [[f"{COMMANDS}={PAYLOAD}"], [f"{COMMANDS}='{PAYLOAD}'"], [COMMANDS, PAYLOAD]]


def task(number):
    return {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_MIN": "1"}


@pytest.mark.parametrize("arguments", FORMS)
def test_each_task_finds_its_own_command(arguments):
    called = ["snakemake", "--mode", "remote", *arguments, "--jobs", "1"]
    assert own_command(called, task(3)) == "echo task 3"
    assert own_command(called, task(2)) == "echo task 2"
    assert own_command(called, task(1)) is None
    assert own_command(called, {}) is None


def test_what_a_task_starts_is_not_started_again():
    assert own_command(["snakemake", "--mode", "remote"], task(2)) is None


def test_a_task_becomes_its_own_command():
    code = "from microtome.workflow.arrays import become_own_task as become; become(); print('not')"
    done = subprocess.run(
        [sys.executable, "-c", code, *FORMS[0]],
        env=task(2),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "task 2\n"
