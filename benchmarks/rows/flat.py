"""The workflow on a corpus of ten thousand, a hundred thousand and a million tokens, in shards."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.process import REPOSITORY, mebibytes
from benchmarks.row import Bar, Pair, Row, Run, in_turn
from benchmarks.scratch import CORPUS, REAL, checkpoint

LENGTH = 128
#: Sequences of a shard: 10,240 tokens.
SHARD = 80
STUDY = """\
source: "made for the benchmark"
statistics:
  norms: {site: resid_post, layers: [9, 19, 29]}
"""
STATISTICS = """\
import xarray as xr

from microtome.options import Site
from microtome.statistics.norms import log_norms


def norms(section: xr.Dataset, *, site: Site) -> xr.Dataset:
    return log_norms(section, site)
"""


@dataclass(frozen=True)
class Corpus:
    """A run of the workflow, from a corpus to joined layer files.

    Attributes:
        n_shards: how much of the corpus.
        cores: of Snakemake.
        threads: of each sweep.
    """

    n_shards: int
    cores: int
    threads: int

    @property
    def n_tokens(self) -> int:
        """Tokens of the corpus."""
        return self.n_shards * SHARD * LENGTH

    def write(self, folder: Path, scratch: Path) -> None:
        """Write the config, the study and the stimulus set into a folder."""
        (folder / "stimuli").mkdir(parents=True)
        (folder / "studies" / "norms").mkdir(parents=True)
        (folder / "studies" / "norms" / "study.yaml").write_text(STUDY)
        (folder / "studies" / "norms" / "statistics.py").write_text(STATISTICS)
        corpus = {
            "source": "source files of Python's standard library",
            "corpus": str(scratch / CORPUS),
            "cut": {"length": LENGTH, "documents": "joined"},
            "sample": {"sequences": self.n_shards * SHARD, "seed": 0},
        }
        (folder / "stimuli" / "python.yaml").write_text(json.dumps(corpus))  # JSON is YAML
        sweep = {"batch_tokens": 1024, "threads": self.threads, "device": "cpu"}
        config = {
            "models": {REAL: {"source": str(scratch / checkpoint(REAL)), "n_layers": 30}},
            "studies": {"norms": {"models": [REAL], "stimuli": "python"}},
            "sweep": sweep | {"dtype": "float32", "sequences_per_job": SHARD},
            "store": {"dtype": "float32", "compression": "none"},
            "style": {"theme": "light", "dpi": 150},
        }
        (folder / "corpus.yaml").write_text(json.dumps(config))

    def run(self, folder: Path) -> Run:
        """Make the layer files; returns what it took."""
        command = [sys.executable, "-m", "snakemake", "activations", "--cores", str(self.cores)]
        command += ["--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(folder)]
        command += ["--replace-workflow-config", "--configfile", str(folder / "corpus.yaml")]
        run = watched(command, folder)
        began, ended = zip(*_sweeps(folder), strict=True)
        swept = max(ended) - min(began)
        layers = (folder / "results" / "activations").rglob("layer-*.h5")
        return run | {
            "sweeps": swept,
            "rate": self.n_tokens / swept,
            "bytes": sum(file.stat().st_size for file in layers),
        }


def watched(command: Sequence[str], folder: Path) -> Run:
    """Run a command: its seconds, those of processors, and the peak of its largest process.

    Every process that it starts is looked at each 50 ms, so that the last ones of each are missed.
    """
    peaks: dict[int, float] = {}
    seconds: dict[int, float] = {}
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            for process in _descendants(running.pid):
                with suppress(OSError):  # it may just have ended
                    peaks[process] = max(peaks.get(process, 0), mebibytes(process, "VmHWM"))
                    seconds[process] = _processor_seconds(process)

    start = time.perf_counter()
    log = folder / "log"
    with log.open("w") as stream:
        library = {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
        running = subprocess.Popen(
            command, cwd=folder, env=os.environ | library, stdout=stream, stderr=subprocess.STDOUT
        )
        looking = threading.Thread(target=look)
        looking.start()
        running.wait()
        over.set()
        looking.join()
    if running.returncode:
        sys.exit(f"failed: {' '.join(command)}\n{log.read_text()[-5000:]}")
    return {
        "wall": time.perf_counter() - start,
        "cpu": sum(seconds.values()),
        "resident": max(peaks.values()),
    }


def _processor_seconds(process: int) -> float:
    """Seconds of processors that a process has taken, the kernel's among them."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _descendants(process: int) -> list[int]:
    """A process and all that it has started, directly or not."""
    found = [process]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):
                found += map(int, children.read_text().split())
    return found


def _sweeps(folder: Path) -> list[tuple[float, float]]:
    """When each sweep began and ended, as Snakemake has noted it."""
    notes = [file for file in (folder / ".snakemake" / "metadata").rglob("*") if file.is_file()]
    jobs = (json.loads(note.read_text()) for note in notes)
    return [
        (job["starttime"], job["endtime"])
        for job in jobs
        if str(job["rule"]).startswith("activations")
    ]


#: How much of the corpus is read, and how.
RUNS = {
    "10 thousand": Corpus(1, cores=2, threads=2),
    "100 thousand": Corpus(10, cores=2, threads=2),
    "1,000 thousand": Corpus(100, cores=2, threads=2),
    "100 thousand, 1 thread": Corpus(10, cores=1, threads=1),
    "100 thousand, 2 jobs of 1 thread": Corpus(10, cores=2, threads=1),
}


class Flat(Row):
    """The workflow on more and more of a corpus, and with jobs side by side."""

    def measure(self, folder: Path, environments: Path, n_pairs: int) -> dict:
        """Run each from an empty folder that the model is already in."""
        ready, place = folder / "corpus" / "ready", folder / "corpus" / "run"
        shutil.rmtree(folder / "corpus", ignore_errors=True)
        RUNS["10 thousand"].write(ready, folder)
        RUNS["10 thousand"].run(ready)
        pairs: list[Pair] = [{} for _ in range(n_pairs)]
        for turn, pair in enumerate(pairs):
            for name in in_turn(list(RUNS), turn):
                shutil.rmtree(place, ignore_errors=True)
                RUNS[name].write(place, folder)
                for made in ("models", "checksums/models"):  # by links: it is half a gigabyte
                    shutil.copytree(
                        *(ready / "results" / made, place / "results" / made),
                        copy_function=os.link,
                    )
                os.sync()
                pair[name] = RUNS[name].run(place)
                print(f"{self.name}: {name}: {pair[name]}", file=sys.stderr, flush=True)
        shutil.rmtree(folder / "corpus")
        return {"pairs": pairs, "differences": []}


SIZES = list(RUNS)[:3]


def growth(pair: Pair, measure: str) -> float:
    """What a token takes from 100 to 1,000 thousand, as a share of that from 10 to 100 thousand."""
    few, many = (
        (pair[more][measure] - pair[less][measure]) / (RUNS[more].n_tokens - RUNS[less].n_tokens)
        for less, more in pairwise(SIZES)
    )
    return many / few


ROWS = (
    Flat(
        name="flat",
        title="SmolLM2-135M reads ten thousand tokens, and a million",
        text=f"The workflow on sequences of {LENGTH} tokens, drawn from twelve million characters "
        f"of Python source, in shards of {SHARD} (`sequences_per_job`): `resid_post` of three of "
        "the 30 layers, the last one among them, to disk. *Whole process* is the command, which "
        "tokenises all characters whatever is drawn; *sweeps* are from the start of the first to "
        "the end of the last. Peaks are those of the largest process.",
        ways={},
        bars=(
            Bar(
                "peak resident, 1,000 thousand ÷ 10 thousand",
                lambda p: p["1,000 thousand"]["resident"] / p["10 thousand"]["resident"],
                1.1,
            ),
            Bar(
                "sweeps' time for a further token, beyond 100 thousand ÷ before",
                lambda p: growth(p, "sweeps"),
                1.1,
            ),
            Bar(
                "processor time for a further token, beyond 100 thousand ÷ before",
                lambda p: growth(p, "cpu"),
                1.1,
            ),
            Bar(
                "tokens per second, 2 jobs of 1 thread ÷ 1 job of 1 thread",
                lambda p: (
                    p["100 thousand, 2 jobs of 1 thread"]["rate"]
                    / p["100 thousand, 1 thread"]["rate"]
                ),
            ),
            Bar(
                "tokens per second, 2 jobs of 1 thread ÷ 1 job of 2 threads",
                lambda p: p["100 thousand, 2 jobs of 1 thread"]["rate"] / p["100 thousand"]["rate"],
            ),
        ),
        remark="Two jobs of one thread, as the default config has it, make more of two cores than "
        "one job of two threads.",
    ),
)
