"""The cluster tests' own Slurm leaves nothing behind, also where a test fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from slurm import ETC, NODES

pytestmark = pytest.mark.cluster

#: A test run of its own, which fails while a job runs.
FAILS = """
import time
from pathlib import Path
from conftest import slurm

def test_fails(slurm):
    slurm.ask("sbatch", "--output=/dev/null", "--wrap=echo $$ > job; exec sleep 600")
    while not (Path("job").exists() and Path("job").read_text()):
        time.sleep(0.2)
    Path("daemons").write_text(" ".join(str(daemon.pid) for daemon in slurm.daemons.values()))
    assert False
"""


def running(pids: str) -> list[str]:
    return [pid for pid in pids.split() if Path("/proc", pid).exists()]


def test_a_failing_test_leaves_no_daemon_no_job_and_no_configuration(tmp_path):
    (tmp_path / "test_fails.py").write_text(FAILS, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_fails.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[:2]))},
        capture_output=True,
        check=False,
    )
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED
    daemons = (tmp_path / "daemons").read_text()
    assert len(daemons.split()) == 2 + len(NODES)
    assert running(daemons) == []
    assert running((tmp_path / "job").read_text()) == []
    assert not (ETC / "slurm.conf").exists()
