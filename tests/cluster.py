"""The workflow as it is submitted to the tests' own Slurm."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

from slurm import Slurm
from workflows import Clone, held

PROFILE = ["--workflow-profile", "profiles/slurm", "--slurm-status-command", "squeue"]
PROFILE += ["--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "5"]


def clone_in(folder: Path, model: Path) -> Clone:
    """A clone whose Snakemake finds the executor plugin, where `make cluster-test` has it."""
    clone = Clone(folder, model)
    clone.environment["PYTHONPATH"] += os.pathsep + os.environ.get("PYTHONPATH", "")
    return clone


def unswept(local: Clone, folder: Path) -> Clone:
    """A local run up to its token tables: what is left to do is submitted, or reads that."""
    clone = local.copy(folder / "clone")
    for kind in ("activations", "interventions", "statistics", "figures", "tables", "page"):
        shutil.rmtree(clone.product(kind), ignore_errors=True)
    return clone


def sweep_held(clone: Clone, label: str, model: str = "tiny") -> AbstractContextManager:
    """Keep a sweep from going on, once it has imported what it needs."""
    return held(clone.product(f"logs/activations/{model}/{label}.log"))


def start(clone: Clone, *arguments: str) -> subprocess.Popen:
    """Start the main process; what it says goes into main.log."""
    with (clone.folder / "main.log").open("w", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", *PROFILE, *arguments],
            cwd=clone.folder,
            env=clone.environment,
            stdout=log,
            stderr=log,
        )


def ended_well(main: subprocess.Popen, clone: Clone) -> bool:
    """Wait for the main process; where it fails, its log is in the test's report."""
    assert main.wait() == 0, (clone.folder / "main.log").read_text()
    return True


def wait_for(
    slurm: Slurm, main: subprocess.Popen, before: int, rule: str, *states: str
) -> dict[str, str]:
    """The first job of a rule after so many others, as soon as it is in one of some states."""
    while main.poll() is None:
        for job in slurm.jobs()[before:]:
            if job["Comment"].startswith(rule) and job["JobState"] in states:
                return job
        time.sleep(0.5)
    raise AssertionError(f"{rule} was never {states}")
