"""A row: ways to the same numbers, run in turn, compared, and set against bars."""

import os
import shutil
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import interventions, process, scratch, tokenising, ways

#: What one run measured, and the runs of one pair by name.
Run = dict[str, float]
Pair = dict[str, Run]

#: The measurements that a table shows where a run has them: heading, decimals.
MEASURES = {
    "resident": ("peak resident, MiB", 0),
    "anonymous": ("peak unreclaimable, MiB", 0),
    "wall": ("whole process, s", 1),
    "imports": ("of it until imports are done, s", 1),
    "work": ("after imports, s", 2),
    "sweeps": ("of it sweeps, s", 1),
    "rate": ("tokens a second of these", 0),
    "cpu": ("processor time, imports too, s", 1),
    "passes": ("of it the passes alone, s", 2),
    "bytes": ("written, MB", 1),
}


@dataclass(frozen=True)
class Way:
    """One of a row's ways.

    Attributes:
        function: its name among the `WAYS` of its task's module.
        task: what it extracts, or changes.
        environment: that of a peer, by name; this one's otherwise.
    """

    function: str
    task: ways.Task | interventions.Task | tokenising.Task
    environment: str | None = None

    def command(self, name: str, environments: Path) -> list[str]:
        """What runs it in a process of its own, called something if its arrays are wanted."""
        python = sys.executable
        if self.environment:
            python = str(environments / self.environment / "bin" / "python")
        return [python, "-m", self.task.MODULE, self.function, name, self.task.argument()]


@dataclass(frozen=True)
class Bar:
    """What a number made of a pair's measurements has to stay below.

    Attributes:
        label: what the number is.
        value: makes it, of one pair or of the medians over all.
        at_most: the bar; None for a number that is only shown.
    """

    label: str
    value: Callable[[Pair], float]
    at_most: float | None = None


@dataclass(frozen=True)
class Same:
    """Two ways whose arrays have to agree.

    Attributes:
        one: the first way's name.
        other: the second's.
        within: how far single numbers may be apart, as a share of the array's largest; 0 asks
            for the same bits.
    """

    one: str
    other: str
    within: float = 0.0


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: what it is asked for by.
        title: its heading.
        text: what is done, in a sentence or a few.
        ways: by name, in the order of the table's columns.
        bars: what is required.
        same: whose arrays are compared.
        cap: bytes of memory that each process may have; its pages of the checkpoint count,
            and are read from disk.
        remark: where the remaining time goes, in Markdown, written by hand once it is measured.
    """

    name: str
    title: str
    text: str
    ways: dict[str, Way]
    bars: Sequence[Bar]
    same: Sequence[Same] = ()
    cap: int | None = None
    remark: str = ""

    def measure(self, folder: Path, environments: Path, n_pairs: int) -> dict:
        """Run every way once per pair, each in turn going first, and compare their arrays.

        Args:
            folder: the scratch folder.
            environments: the folder of the peers' environments.
            n_pairs: how often.

        Returns:
            `pairs`, the measurements of each, and `differences`, the largest found, by pairs of
            ways as in `same`.
        """
        pairs: list[Pair] = [{} for _ in range(n_pairs)]
        largest = [0.0] * len(self.same)
        compared = {name for same in self.same for name in (same.one, same.other)}
        for turn, pair in enumerate(pairs):
            digests = {}
            for name in in_turn(list(self.ways), turn):
                way = self.ways[name]
                shutil.rmtree(folder / "results" / "activations", ignore_errors=True)
                os.sync()  # what others wrote would slow this one's flushes down
                weights = (folder / scratch.checkpoint(way.task.model)).glob("*.safetensors")
                (cool if self.cap else warm)(weights)
                with ExitStack() as stack:
                    group = stack.enter_context(process.memory_cap(self.cap)) if self.cap else None
                    command = way.command(name if name in compared else "", environments)
                    pair[name], digests[name] = process.measure(command, folder, group)
                if "killed" in pair[name] and not self.cap:
                    sys.exit(f"{self.name}: {name}: {pair[name]['killed']}")
                print(f"{self.name}: {name}: {_one_line(pair[name])}", file=sys.stderr, flush=True)
            for i, same in enumerate(self.same):
                found = difference(same, digests, folder)
                largest[i] = max(largest[i], found)
                if found > same.within:
                    sys.exit(f"{self.name}: {same.one} and {same.other} differ by {found:.2g}")
        shutil.rmtree(folder / "results" / "activations", ignore_errors=True)
        shutil.rmtree(folder / process.SAMPLES, ignore_errors=True)
        return {"pairs": pairs, "differences": largest}

    def section(self, measured: dict) -> str:
        """The tables of what was measured, in Markdown."""
        pairs = measured["pairs"]
        if self.cap:
            return _fates(pairs)
        medians = {
            way: {key: statistics.median(p[way][key] for p in pairs) for key in pairs[0][way]}
            for way in pairs[0]
        }
        lines = [
            f"| median of {len(pairs)} | {' | '.join(medians)} |",
            f"|---|{'---:|' * len(medians)}",
        ]
        for key, (heading, decimals) in MEASURES.items():
            cells = [_number(run.get(key), key, decimals) for run in medians.values()]
            if any(cells):
                lines.append(f"| {heading} | {' | '.join(cells)} |")
        lines += [
            "",
            "| | of the medians | in single pairs | required | |",
            "|---|---:|---:|---:|---|",
        ]
        lines += [_bar_line(bar, medians, pairs) for bar in self.bars]
        agreements = [
            f"{s.one} and {s.other}: "
            + (f"at most {d:.1e} of an array's largest number apart" if d else "equal bit for bit")
            for s, d in zip(self.same, measured["differences"], strict=True)
        ]
        if agreements:
            lines += ["", f"Arrays, in every pair: {'; '.join(agreements)}."]
        return "\n".join(lines) + "\n"


def warm(files: Iterable[Path]) -> None:
    """Read files into the page cache, so that the disk's speed decides nothing."""
    buffer = bytearray(1 << 24)
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def cool(files: Iterable[Path]) -> None:
    """Take files out of the page cache: what is there already is charged to no memory cap."""
    for file in files:
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def in_turn(names: list[str], turn: int) -> list[str]:
    """Names in their order, another one first in each turn."""
    first = turn % len(names)
    return names[first:] + names[:first]


def difference(same: Same, digests: dict[str, dict[str, str]], folder: Path) -> float:
    """The largest difference between numbers of two ways, as a share of the array's largest."""
    one, other = digests[same.one], digests[same.other]
    if not one or one.keys() != other.keys():
        sys.exit(f"{same.one} has {len(one)} arrays, {same.other} {len(other)}, or not the same")
    differing = [key for key in one if one[key] != other[key]]
    if not differing:
        return 0.0
    with (
        np.load(folder / process.SAMPLES / f"{same.one}.npz") as ours,
        np.load(folder / process.SAMPLES / f"{same.other}.npz") as theirs,
    ):
        apart = max(
            float(np.abs(ours[key] - theirs[key]).max() / np.abs(theirs[key]).max())
            for key in differing
        )
    return max(apart, np.finfo(np.float32).tiny)  # not 0, even if no sampled number shows it


def _bar_line(bar: Bar, medians: Pair, pairs: list[Pair]) -> str:
    value, singles = bar.value(medians), [bar.value(pair) for pair in pairs]
    required = verdict = ""
    if bar.at_most is not None:
        required = f"≤ {_short(bar.at_most)}"
        verdict = "met" if value <= bar.at_most else f"**missed** by {_short(value - bar.at_most)}"
    span = f"{_short(min(singles))}–{_short(max(singles))}"
    return f"| {bar.label} | {_short(value)} | {span} | {required} | {verdict} |"


def _fates(pairs: list[Pair]) -> str:
    """What became of processes under a memory cap."""
    lines = ["| way | finished | after, s | peak resident, MiB | peak unreclaimable, MiB |"]
    lines.append("|---|---|---:|---:|---:|")
    for way in pairs[0]:
        runs = [pair[way] for pair in pairs]
        n_finished = sum("killed" not in run for run in runs)
        fate = f"{n_finished} of {len(runs)}"
        if n_finished < len(runs):
            fate += f", else killed ({next(run['killed'] for run in runs if 'killed' in run)})"
        numbers = (
            _number(statistics.median(run[key] for run in runs), key, decimals)
            for key, decimals in (("wall", 1), ("resident", 0), ("anonymous", 0))
        )
        lines.append(f"| {way} | {fate} | {' | '.join(numbers)} |")
    met = all("killed" not in pair["sweep"] for pair in pairs)
    lines += ["", f"Required: the sweep finishes. {'Met' if met else '**Missed**'}."]
    return "\n".join(lines) + "\n"


def _number(value: float | None, key: str, decimals: int) -> str:
    if value is None:
        return ""
    return f"{value / 1e6 if key == 'bytes' else value:,.{decimals}f}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _one_line(run: Run) -> str:
    parts: Iterator[str] = (
        f"{heading} {_number(run[key], key, decimals)}"
        for key, (heading, decimals) in MEASURES.items()
        if key in run
    )
    return "; ".join([*([run["killed"]] if "killed" in run else []), *parts])
