"""A measured process: fresh, watched from outside, and, where wanted, under a memory cap.

It tells what it measured itself on its first line, and what its arrays hold on the second; the
time between the two is not its own. Nothing but the standard library is needed here, so that a
measured process imports only what its own way of working needs.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
#: Where an array's samples go, below the scratch folder, named after the run.
SAMPLES = Path("samples")
#: Numbers of an array that are kept to be compared where they may differ.
N_SAMPLED = 300_000
#: Seconds after which a process is ended: one that is short of memory may never end by itself.
PATIENCE = 900


class Failed(Exception):
    """A measured process ended with an error."""


def measure(
    command: Sequence[str], folder: Path, cap: Path | None = None
) -> tuple[dict, dict[str, str]]:
    """Run a command in a fresh process and wait for it.

    Args:
        command: what to run; it calls `report` and `report_arrays`.
        folder: where.
        cap: a cgroup that the process is put into.

    Returns:
        The measurements (seconds and MiB), and the digest of every array by its key. Of a process
        that was killed: `killed`, the signal's name, and `wall` and memory until then.

    Raises:
        Failed: it ended otherwise, with an error.
    """
    # No network, and this checkout's microtome, whatever else is installed.
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
    join = None if cap is None else lambda: (cap / "cgroup.procs").write_text(str(os.getpid()))
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        with subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            preexec_fn=join,
        ) as process:
            anonymous = resident = 0.0
            while not select.select([process.stdout], [], [], 0.01)[0]:
                with suppress(ProcessLookupError):
                    anonymous = max(anonymous, mebibytes(process.pid, "RssAnon"))
                    resident = max(resident, mebibytes(process.pid, "VmHWM"))
                if time.perf_counter() - start > PATIENCE:
                    process.kill()
            first_line = process.stdout.readline()
            extracted = time.perf_counter()
            second_line = process.stdout.readline()
            digested = time.perf_counter()
        wall = time.perf_counter() - start - (digested - extracted)
        if process.returncode < 0:
            measured = {"killed": signal.Signals(-process.returncode).name, "wall": wall}
            return measured | {"resident": resident, "anonymous": anonymous}, {}
        if process.returncode:
            errors.seek(0)
            raise Failed(f"{' '.join(command)}\n{errors.read().decode()}")
    measured = json.loads(first_line) | {"anonymous": anonymous, "wall": wall}
    measured["imports"] = extracted - start - measured["work"]
    return measured, json.loads(second_line)


def report(imported: float, **more: float) -> None:
    """Tell the parent the time since the imports and the memory's peak, on the first line.

    Also the processor time of all threads, imports included: it hardly depends on what else runs.
    """
    work, cpu = time.perf_counter() - imported, time.process_time()
    measured = {"work": work, "cpu": cpu, "resident": mebibytes("self", "VmHWM")}
    print(json.dumps(measured | more), flush=True)


def report_arrays(name: str, arrays: "Iterable[tuple[str, np.ndarray]]") -> None:
    """Tell the parent what every array holds, on the second line; keep samples of each.

    Args:
        name: of the run; without one, nobody wants to know.
        arrays: by key. Their shapes may differ between ways, not the order of their numbers.
    """
    import hashlib

    import numpy as np

    digests, samples = {}, {}
    for key, array in arrays if name else ():
        flat = np.ascontiguousarray(array).ravel()
        digests[key] = hashlib.sha256(flat).hexdigest()
        samples[key] = flat[:: -(-flat.size // N_SAMPLED)].copy()
    if name:
        SAMPLES.mkdir(exist_ok=True)
        np.savez(SAMPLES / name, **samples)
    print(json.dumps(digests), flush=True)


def mebibytes(process: str | int, field: str) -> float:
    """A field of a process's status; 0 of one that is about to end and has no memory any more."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    return 0.0


@contextmanager
def memory_cap(n_bytes: int) -> Iterator[Path]:
    """A cgroup whose processes have so much memory together, page cache included, and no swap.

    Either version of cgroups will do; it takes the right to make one.
    """
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        group, limits = root / "microtome", {"memory.max": n_bytes, "memory.swap.max": 0}
    else:
        group = root / "memory" / "microtome"
        limits = {"memory.limit_in_bytes": n_bytes, "memory.memsw.limit_in_bytes": n_bytes}
    try:
        group.mkdir(exist_ok=True)
        for file, limit in limits.items():
            if "sw" not in file or (group / file).exists():  # without swap there may be no such
                (group / file).write_text(str(limit))
    except OSError as error:
        sys.exit(f"a memory cap needs the right to make a cgroup with a memory limit: {error}")
    try:
        yield group
    finally:
        group.rmdir()
