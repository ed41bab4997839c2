"""Runs that have to fail: what a user wrote, and the one line that it is told of."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess

from forked import shared

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Case:
    """A run that has to fail.

    Attributes:
        config: the text of mine.yaml, the config file on top of the workflow's own.
        says: parts of the one line it prints, in their order.
        files: other files in the folder the workflow runs in, by name; a path is linked to.
        arguments: what follows `--configfile mine.yaml`.
    """

    config: str
    says: tuple[str, ...]
    files: dict[str, bytes | Path] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()


def study(text: str, name: str = "category_selectivity") -> str:
    """A config that changes one study."""
    return f"studies: {{{name}: {text}}}"


def model(source: str, n_layers: object = 30, name: str = "mine", more: str = "") -> str:
    """A config with one more model."""
    source = json.dumps(source)
    return f"models: {{{json.dumps(name)}: {{source: {source}, n_layers: {n_layers}{more}}}}}"


def snakemake(folder: Path, *arguments: str) -> CompletedProcess:
    """Run the workflow in a folder, with its mine.yaml."""
    options = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    options += ["--workflow-profile", str(ROOT / "profiles" / "default")]
    return shared().run(folder, [*options, "--configfile", "mine.yaml", *arguments])


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every product in a folder: its bytes, and when it was last written."""
    files = (path for path in (folder / "results").rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in files
        if not {"logs", "benchmarks"} & set(path.relative_to(folder).parts)
    }


def said(done: CompletedProcess) -> str:
    """The one line that a run failed with."""
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("microtome: ")]
    assert len(lines) == 1, done.stdout + done.stderr
    return lines[0]


def assert_in_order(parts: Iterable[str], line: str) -> None:
    for part in parts:
        assert part in line
        line = line[line.index(part) + len(part) :]


def assert_refused(folder: Path, case: Case) -> None:
    """Run a case in a folder with a product: one line is said, and no job runs."""
    files = {"mine.yaml": case.config.encode(), "results/figures/a/b.svg": b"a figure"} | case.files
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            (folder / name).symlink_to(content)
        else:
            (folder / name).write_bytes(content)
    before = snapshot(folder)
    done = snakemake(folder, *case.arguments)
    assert_in_order(case.says, said(done))
    assert "Building DAG of jobs" not in done.stderr
    assert before
    assert snapshot(folder) == before
