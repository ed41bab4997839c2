"""What is in a folder: a sweep's layer files, or products by study, by model or by kind."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import chdir
from pathlib import Path

from microtome.errors import MicrotomeError
from microtome.show.hdf5 import in_shards, layer_lines
from microtome.show.lines import columns, count, size, some
from microtome.show.products import place
from microtome.store.checksums import KINDS, RESULTS, fault, recorded_files, untouched
from microtome.store.virtual import bytes_of, shards_of

#: How many entries of a folder are listed; it may have thousands of shards.
_MOST = 40


def folder_lines(path: Path) -> list[str]:
    """Tell what is in a folder.

    Raises:
        MicrotomeError: there is nothing in it that Microtome has made.
    """
    layers = [file for file in path.glob("*.h5") if re.match(r"(layer-\d+|final)$", file.stem)]
    if layers:
        layers.sort(key=lambda file: (file.stem == "final", file.stem))
        names = some([file.stem for file in layers], 4)
        parts = in_shards(len(shards_of(layers[0])))
        head = f"{path}: activations{parts}, {names}, {size(sum(map(bytes_of, layers)))}"
        return [head, *layer_lines(layers[0])]
    if (path / RESULTS).is_dir():
        path = path / RESULTS
    if path.name == RESULTS.name and any((path / kind).is_dir() for kind in KINDS):
        return _results(path)
    if place(path) is None:
        raise MicrotomeError(f"{path}: has no products; name a folder in {RESULTS}/")
    entries = [entry for entry in sorted(path.iterdir()) if not entry.name.startswith(".")]
    return _by_entry(path, entries)


def _by_entry(path: Path, entries: Iterable[Path]) -> list[str]:
    """A line for each entry of a folder: how many files it has, and how large they are."""
    rows = [[entry.name, *_sum(_files(entry))] for entry in entries]
    if len(rows) > _MOST:
        rows[_MOST - 2 : -1] = [["…", "", ""]]
    return [f"{path}: {', '.join(_sum(_files(path)))}", *columns(rows)]


def _sum(files: Iterable[Path]) -> tuple[str, str]:
    sizes = [file.stat().st_size for file in files if file.exists()]  # links may lead nowhere
    return count(len(sizes), "file"), size(sum(sizes))


def _files(path: Path) -> Iterator[Path]:
    """A file, or all files below a folder but hidden ones, which are Snakemake's."""
    if path.is_file():
        yield path
    for folder, _, names in os.walk(path):
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _results(path: Path) -> list[str]:
    """All products of a run, by kind, and those that are not as they were made."""
    lines = _by_entry(path, [path / kind for kind in KINDS if (path / kind).is_dir()])
    with chdir(path.parent):
        recorded = set(recorded_files())
        there = {file for kind in KINDS for file in _files(RESULTS / kind)}
        faults = {
            "missing": {file for file in recorded if not file.exists()},
            "without a checksum on record": there - recorded,
            "changed or damaged": {f for f in there & recorded if not untouched(f) and fault(f)},
        }
    found = [
        f"  {count(len(files), 'file')} {what}: {some(sorted(map(str, files)), 4)}"
        for what, files in faults.items()
        if files
    ]
    return lines + (found or ["  all on record; microtome verify compares them, byte by byte"])
