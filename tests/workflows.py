"""The workflow as tests drive it: a copy of the repository with a small config of its own."""

import copy
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from compileall import compile_dir
from contextlib import contextmanager
from pathlib import Path
from py_compile import PycInvalidationMode

import yaml
from forked import shared

from microtome.store.checksums import KINDS, RESULTS

ROOT = Path(__file__).parents[1]
CODE = (
    *("Snakefile", "config.schema.yaml", "rules", "scripts", "studies", "microtome", "profiles"),
    "report",
)

WORDS = {
    "source": "made up",
    "template": "The next word is {word}",
    "words": {"fruit": ["apple", "pear", "plum"], "space": ["moon", "asteroid", "star"]},
}
TEXTS = {"source": "made up", "texts": ["A thin section of a language model, one of many."]}
CONFIG = {
    "models": {"tiny": {"n_layers": 3}},
    "studies": {
        "category_selectivity": {"models": ["tiny"]},
        "mlp_distributions": {"models": ["tiny"]},
    },
    "sweep": {
        "batch_tokens": 32,
        "threads": 1,
        "device": "cpu",
        "dtype": "float32",
    },
    "store": {"dtype": "float32", "compression": "none"},
    "style": {"theme": "light", "dpi": 50},
}
#: Some products of two of the repository's studies: what their study.yaml says here.
STUDIES = {
    "category_selectivity": {
        "stimuli": "words",
        "statistics": {
            "cosine_similarities": {"sites": ["q", "k", "v"], "word_token": -1, "layers": [0, 1]},
            "rsa": {},
        },
        "figures": {
            "cosine_matrices": {"layer": 1, "limits": [0.0, 1.0]},
            "rsa_profile": {},
        },
    },
    "mlp_distributions": {
        "stimuli": "texts",
        "statistics": {
            "gelu": {"n": 51, "limit": 4.0},
            "weight_counts": {"layer": 1},
            "tsne": {
                "sites": ["ln2_out", "mlp_out"],
                "layer": 1,
                "perplexity": 2,
                "seed": 0,
                "first_token": 1,
            },
        },
        "figures": {"gelu": {}, "tsne": {}},
        "tables": {"weight_counts": {}},
    },
}
#: Of another study, an intervention, and what is made of it.
SCALED = {
    "interventions": {
        "scaled_blocks": {
            "site": "resid_post",
            "each": ["layer"],
            "change": {"scale": 0.8},
            "read": {"log_probabilities": "last", "targets": [" insect"]},
        }
    },
    "statistics": {"scaling": {}},
    "figures": {"scaling": {}},
}


class Clone:
    """A copy of the repository with a small config of its own, and what a user does there."""

    def __init__(self, folder: Path, model: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.environment = os.environ | {"PYTHONPATH": str(folder)}
        self.check_out()
        self.config = copy.deepcopy(CONFIG)
        self.config["models"]["tiny"]["source"] = str(model)
        self.save(self.config)
        (folder / "stimuli").mkdir()
        self.save(WORDS, "stimuli/words.yaml")
        self.save(TEXTS, "stimuli/texts.yaml")

    def copy(self, folder: Path) -> "Clone":
        """The same with all its products, in another folder."""
        shutil.copytree(self.folder, folder, symlinks=True)
        other = copy.copy(self)
        other.folder = folder
        path = self.environment["PYTHONPATH"].replace(str(self.folder), str(folder))
        other.environment = self.environment | {"PYTHONPATH": path}
        other.config = copy.deepcopy(self.config)
        return other

    def check_out(self) -> None:
        """Bring the repository's code, with the present time on each file."""
        for name in CODE:
            place = self.folder / name
            if place.is_dir():
                shutil.rmtree(place)
            if (ROOT / name).is_dir():
                shutil.copytree(
                    ROOT / name,
                    place,
                    copy_function=shutil.copyfile,
                    ignore=shutil.ignore_patterns("__pycache__"),
                )
            else:
                shutil.copyfile(ROOT / name, place)
        # Once for all processes that import it; by contents, since an edit may follow at once.
        by_contents = PycInvalidationMode.CHECKED_HASH
        compile_dir(self.folder / "microtome", quiet=1, invalidation_mode=by_contents)
        for name, products in STUDIES.items():
            self.save_study(name, products)

    def save_study(self, name: str, products: dict) -> None:
        """Write a study.yaml: which of a study's products there are."""
        self.save({"source": "made up"} | products, f"studies/{name}/study.yaml")

    def save(self, content: dict, name: str = "config.yaml") -> None:
        """Write a config or a stimulus file."""
        text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
        (self.folder / name).write_text(text, encoding="utf-8")

    def change(self, *path: str, to: object) -> None:
        """Set a key of the config, where an option of a study's product wins over study.yaml."""
        entry = self.config
        for key in path[:-1]:
            entry = entry.setdefault(key, {})
        entry[path[-1]] = to
        self.save(self.config)

    def replace(self, name: str, old: str, new: str) -> None:
        """Edit a file of the repository."""
        file = self.folder / name
        text = file.read_text(encoding="utf-8")
        assert text.count(old) >= 1, f"{name} has no {old!r}"
        file.write_text(text.replace(old, new, 1), encoding="utf-8")

    def product(self, label: str) -> Path:
        """A file below results/."""
        return self.folder / "results" / label

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess:
        """Call Snakemake as a user does."""
        return shared().run(self.folder, list(arguments), self.environment)

    def planned(self, *arguments: str) -> set[str]:
        """The jobs of a dry run."""
        done = self.snakemake("--dry-run", *arguments)
        assert done.returncode == 0, done.stderr
        return jobs(done)

    def run(self, *arguments: str) -> set[str]:
        """Run the workflow; the jobs that ran."""
        done = self.snakemake(*arguments)
        assert done.returncode == 0, done.stderr
        return jobs(done)

    def verify(self) -> list[str]:
        """What `make verify` finds wrong, a line each."""
        done = subprocess.run(
            [sys.executable, "-m", "microtome.cli", "verify"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        found = done.stdout.splitlines()
        assert (done.returncode == 0) == found[-1].endswith("products, all as they were made")
        return found if done.returncode else []

    def contents(self) -> dict[str, bytes]:
        """Every product's bytes, by its path."""
        return {
            str(file.relative_to(self.folder)): file.read_bytes()
            for kind in KINDS
            for file in sorted((self.folder / RESULTS / kind).rglob("*"))
            if file.is_file() and not file.name.startswith(".")
        }


@contextmanager
def held(log: Path) -> Iterator[Callable[[], bool]]:
    """Keep a job from going on, by the lock that it takes beside its log.

    Yields:
        Whether the job has come so far that it waits.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = f":{os.fstat(lock.fileno()).st_ino} "
        yield lambda: any(
            "-> " in line and file in line for line in Path("/proc/locks").read_text().splitlines()
        )


def wait_until(reached: Callable[[], bool], main: subprocess.Popen) -> None:
    """Wait for a run to reach a point, however long that takes."""
    while not reached():
        assert main.poll() is None, "the run has ended before"
        time.sleep(0.02)


def jobs(done: subprocess.CompletedProcess) -> set[str]:
    """Jobs by the product they make: a model, a token table, a sweep, a statistic, a figure."""
    first = re.findall(r"^ +output: ([^,\n]+)", done.stdout + done.stderr, re.MULTILINE)
    part = r"(/manifest|/layer-\d+|/resid-\d+|/final)?\.\w+$"
    return {re.sub(part, "", path.removeprefix("results/")) for path in first}
