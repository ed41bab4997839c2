"""Microtome's whole run on the book's models beside five plain scripts that draw the same figures.

    python benchmarks/book/run.py [--folder SCRATCH] [--pairs 1] [--write FILE]

Both ways work on the same stand-ins: folders with random weights in the true shapes, kept in the
scratch folder (10.3 GB, built on the first run). Every measurement begins with an empty folder for
results and with the weights in the page cache, and runs in fresh processes:

- microtome: `snakemake --configfile config.book.yaml` and the stand-ins' folders on top of it,
  with all cores, without the report.
- scripts: the five scripts beside this file, one after another, each as a reader would write it
  from the notebook: load the model, hook it, compute what the notebook computes, draw what it
  draws. They store nothing but figures.

Each in turn goes first. Both have to leave the same figures, by name.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from standins import SHAPES

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
SCRIPTS = (
    "mlp_distributions",
    "grammar_tuning",
    "hidden_states",
    "category_selectivity",
    "attention_norms",
)
#: The most that microtome/scripts may be.
REQUIRED = 1.0
VERSIONS = ("torch", "transformers", "matplotlib", "snakemake")


def timed(command: list[str], log: Path) -> dict[str, float]:
    """Run a command from start to end.

    Returns:
        `wall`, and `cpu`, which says more where other work runs beside it; seconds.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    # The library of this checkout, whichever one is installed.
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with log.open("w") as stream:
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"failed: {' '.join(command)}\n{log.read_text()[-5000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu}


def microtome(folder: Path) -> dict[str, Any]:
    """Measure the workflow."""
    overlay = folder / "overlay.yaml"  # JSON is YAML
    models = {name: {"source": str(folder / "models" / name)} for name in SHAPES}
    overlay.write_text(json.dumps({"models": models}))
    fresh = folder / "microtome"
    fresh.mkdir()
    command = [sys.executable, "-m", "snakemake", "--directory", str(fresh)]
    command += ["--configfile", "config.book.yaml", str(overlay)]
    return timed(command, folder / "microtome.log")


def scripts(folder: Path) -> dict[str, Any]:
    """Measure the five scripts, and their sum."""
    arguments = [str(folder / "models"), str(folder / "scripts")]
    each = {
        name: timed([sys.executable, str(HERE / f"{name}.py"), *arguments], folder / f"{name}.log")
        for name in SCRIPTS
    }
    total = {key: sum(times[key] for times in each.values()) for key in ("wall", "cpu")}
    return {**total, "each": each}


def figures(folder: Path) -> set[str]:
    """The figures in a folder, by name."""
    return {
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.suffix in (".svg", ".png")
    }


def warm(models: Path) -> None:
    """Read all weights into the page cache, so that the disk's speed decides nothing."""
    buffer = bytearray(1 << 24)
    for file in models.glob("*/*.safetensors"):
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def pair(folder: Path, number: int) -> dict[str, Any]:
    """Measure both ways, and check that they drew the same figures."""
    for name in ("microtome", "scripts"):
        shutil.rmtree(folder / name, ignore_errors=True)
    ways = [microtome, scripts]
    measured = {}
    for way in ways if number % 2 == 0 else ways[::-1]:
        warm(folder / "models")
        measured[way.__name__] = result = way(folder)
        print(
            f"{way.__name__}: {result['wall']:.1f} s, {result['cpu']:.1f} s of CPU",
            file=sys.stderr,
            flush=True,
        )
    differing = figures(folder / "microtome" / "results" / "figures") ^ figures(folder / "scripts")
    if differing:
        sys.exit(f"{len(differing)} figures by one way alone, such as {min(differing)}")
    return {**measured, "ratio": measured["microtome"]["wall"] / measured["scripts"]["wall"]}


def machine() -> dict[str, Any]:
    """What it ran on."""
    cpu = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory),
        "python": platform.python_version(),
        **{name: version(name) for name in VERSIONS},
    }


def main() -> None:
    """Build, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    benchmarks = REPOSITORY / "results" / "benchmarks"
    parser.add_argument("--folder", type=Path, default=benchmarks / "book")
    parser.add_argument("--pairs", type=int, default=1, help="measurements of each way")
    parser.add_argument("--write", type=Path, metavar="FILE", default=benchmarks / "book.json")
    options = parser.parse_args()
    folder = options.folder.resolve()
    (folder / "models").mkdir(parents=True, exist_ok=True)
    # In a process of its own, whose memory goes with it.
    build = [sys.executable, str(HERE / "standins.py"), str(folder / "models")]
    subprocess.run(build, check=True)
    pairs = [pair(folder, number) for number in range(options.pairs)]
    ratio = statistics.median(measured["ratio"] for measured in pairs)
    results = {
        "what": "config.book.yaml: wall of the whole run by that of five plain scripts",
        "machine": machine(),
        "pairs": pairs,
        "ratio": ratio,
        "required": REQUIRED,
        "met": ratio <= REQUIRED,
    }
    text = json.dumps(results, indent=2)
    options.write.parent.mkdir(parents=True, exist_ok=True)
    options.write.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
