"""What is in a product, in a few lines: microtome show.

Files are opened without xarray and torch, and values are not read but for a few tokens.
"""

import json
import os
import re
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from microtome.errors import MicrotomeError
from microtome.sites import DIMENSIONS
from microtome.store.checksums import KINDS, RESULTS, fault, recorded_files, untouched

if TYPE_CHECKING:
    import h5py

#: Kinds of products that have a folder of their own for each study.
_OF_STUDIES = ("interventions", "statistics", "figures", "tables")
_UNITS = ("B", "kB", "MB", "GB", "TB")


def show(what: str) -> str:
    """Tell in a few lines what is in a product.

    Args:
        what: a product's file, a folder of products, `results`, or a model: its name, its folder
            or its source.

    Raises:
        MicrotomeError: there is no such thing, or a damaged file.
    """
    from microtome.workflow.show_model import is_model, known_models, show_model

    path = Path(os.path.expanduser(what))
    if "://" in what or (not path.exists() and what in known_models()):
        return show_model(what)
    if not path.exists():
        raise MicrotomeError(f"{what}: no such file, folder or model{_nearest(path)}")
    if path.name in ("manifest.json", "sites.json") or path.name == "checkpoint":
        path = path.parent
    if is_model(path):
        return show_model(str(path))
    lines = _folder(path) if path.is_dir() else _file(path)
    return "\n".join(lines)


def size(n_bytes: float) -> str:
    """Bytes in a unit that leaves up to three digits."""
    for unit in _UNITS:
        if n_bytes < 999.5 or unit == _UNITS[-1]:
            break
        n_bytes /= 1000
    return f"{n_bytes:.3g} {unit}"


def columns(rows: list[list[str]]) -> list[str]:
    """Lines of cells, indented, in columns as wide as they have to be."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = (zip(row, widths, strict=True) for row in rows)
    return ["  " + "  ".join(cell.ljust(width) for cell, width in row).rstrip() for row in cells]


def count(number: int, thing: str) -> str:
    """A number and what it counts, in the plural where there is not just one."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _nearest(path: Path) -> str:
    """The end of the message about a path that does not exist: what it may have meant."""
    from difflib import get_close_matches

    from microtome.workflow.show_model import known_models

    parent = path.parent
    while not parent.is_dir():
        path, parent = parent, parent.parent
    known = [file.name for file in parent.iterdir() if not file.name.startswith(".")]
    if parent == Path():
        known += known_models()
    close = get_close_matches(path.name, known, n=1)
    return f"; did you mean {parent / close[0]}?" if close else ""


def _place(path: Path) -> tuple[Path, Path] | None:
    """The folder of the run that a product is from, and its path there; None if from none."""
    whole = path.absolute()
    for parent in whole.parents:
        if parent.name == RESULTS.name:
            return parent.parent, whole.relative_to(parent.parent)
    return None


def _file(path: Path) -> list[str]:
    if path.suffix == ".h5":
        head, found = _hdf5(path)
    elif path.suffix in (".svg", ".png", ".csv", ".txt"):
        head, found = _for_people(path)
    else:
        raise MicrotomeError(
            f"{path}: no product of Microtome; show takes layer files, token tables, statistics, "
            "interventions, figures, tables, their folders, and models"
        )
    return [f"{path}: {head}, {size(path.stat().st_size)}", *found, *_record(path)]


def _record(path: Path) -> list[str]:
    """What a product was made from, and whether it is still as it was made."""
    place = _place(path)
    if place is None:
        return []
    run, file = place
    with chdir(run):
        metadata, lines = _metadata(file), []
        made = [("from", name) for name in metadata.get("input", [])]
        functions = re.findall(
            r"'(studies/[\w/]+\.py):(\w+)'", " ".join(metadata.get("params", []))
        )
        made += [("by", f"{name}() in {source}") for source, name in functions]
        lines += columns([[f"made {how}", name] for how, name in made]) if made else []
        wrong = None if untouched(file) else fault(file)
        lines.append(f"  {wrong.partition(': ')[2]}" if wrong else "  as it was made")
    return lines


def _metadata(file: Path) -> dict:
    """What Snakemake has noted of a product."""
    encoded = urlsafe_b64encode(file.as_posix().encode()).decode()
    parts = [encoded[i : i + 254] for i in range(0, len(encoded), 254)]
    parts = [f"@{part}" for part in parts[:-1]] + parts[-1:]
    with suppress(OSError, ValueError):
        return json.loads(Path(".snakemake/metadata", *parts).read_text(encoding="utf-8"))
    return {}


def _hdf5(path: Path) -> tuple[str, list[str]]:
    """What an HDF5 file is, and what is in it."""
    import h5py

    try:
        with h5py.File(path) as file:
            sites = [name for name in DIMENSIONS if name in file]
            if "layer" in file.attrs and sites:
                return _layer(file), [*_model_line(file), *_variables(file, sites), *_tokens(file)]
            if "token_id" in file and not _values(file):
                of = f" of {file.attrs['model']}" if "model" in file.attrs else ""
                return f"token table{of}", [*_texts(file), *_tokens(file)]
            return _of_study(path, "dataset"), [*_variables(file, _values(file)), *_axes(file)]
    except OSError as error:
        found = str(error).splitlines()[0]
        raise MicrotomeError(
            f"{path}: damaged ({found}); make it again: snakemake --force {path}"
        ) from None


def _layer(file: "h5py.File") -> str:
    layer = file.attrs["layer"]
    return (
        "activations after the last block" if layer == "final" else f"activations of layer {layer}"
    )


def _model_line(file: "h5py.File") -> list[str]:
    about = file.attrs
    of = (
        f"{about['model']} ({about['revision']})" if "revision" in about else about.get("model", "")
    )
    computed = [about[key] for key in ("dtype",) if key in about]
    computed += [f"{key} {about[key]}" for key in ("torch", "transformers") if key in about]
    return [f"  of {of}, computed in {', '.join(computed)}"]


def _values(file: "h5py.File") -> list[str]:
    """The names of a file's variables that are neither dimensions nor coordinates."""
    coordinates = " ".join(
        str(item.attrs["coordinates"])
        for item in (file, *file.values())
        if "coordinates" in item.attrs
    ).split()
    return [
        name
        for name, item in file.items()
        if name not in coordinates and item.attrs.get("CLASS") != b"DIMENSION_SCALE"
    ]


def _variables(file: "h5py.File", names: list[str]) -> list[str]:
    """A line for each variable: its dimensions with their sizes, and its dtype."""
    rows = []
    for name in names:
        item = file[name]
        sizes = zip(item.dims, item.shape, strict=True)
        axes = ", ".join(f"{_dimension(d)} {n}" for d, n in sizes)
        rows.append([name, f"({axes})" if axes else "a number", _dtype(item)])
    return columns(rows) if rows else []


def _dimension(scale: "h5py._hl.dims.DimensionProxy") -> str:
    return scale[0].name.lstrip("/") if len(scale) else "?"


def _dtype(item: "h5py.Dataset") -> str:
    if item.dtype.kind == "O":
        return "text"
    return (
        "bfloat16"
        if item.id.get_type().get_size() == 2 and item.dtype.itemsize == 4
        else item.dtype.name
    )


def _axes(file: "h5py.File") -> list[str]:
    """A line for each dimension that has labels: its first and last ones."""
    rows = []
    for name, item in file.items():
        text = b"netCDF dimension but not" in item.attrs.get("NAME", b"")
        if item.attrs.get("CLASS") == b"DIMENSION_SCALE" and not text and len(item):
            labels = item.asstr()[...] if item.dtype.kind == "O" else item[...]
            rows.append([name, _some([str(label) for label in labels])])
    return columns(rows) if rows else []


def _some(labels: list[str], most: int = 8) -> str:
    """Labels in a row; of many, the first and the last ones."""
    if len(labels) > most:
        return ", ".join([*labels[: most - 3], "…", labels[-1]])
    return ", ".join(labels)


def _texts(file: "h5py.File") -> list[str]:
    """The line that says which words or texts a token table is of."""
    lines = [f"  columns {', '.join(name for name in file if name != 'token')}"]
    if "category" in file:
        words = set(zip(file["category"].asstr()[...], file["word"].asstr()[...], strict=True))
        kinds = Counter(category for category, _ in words if category)
        lines.append("  words   " + ", ".join(f"{category} {n}" for category, n in kinds.items()))
    return lines


def _tokens(file: "h5py.File") -> list[str]:
    """The line that says how many tokens of how many texts there are, and how they begin."""
    if "sequence" not in file or "text" not in file:
        return []
    n_texts = len(set(file["sequence"][...].tolist()))
    first = " ".join(map(repr, file["text"].asstr()[:8]))
    return [f"  {count(len(file['text']), 'token')} of {count(n_texts, 'text')}: {first} …"]


def _of_study(path: Path, otherwise: str) -> str:
    """What a product is, by its path."""
    place = _place(path)
    parts = place[1].parts[1:] if place else ()
    if len(parts) < 3 or parts[0] not in _OF_STUDIES:
        return otherwise
    kind, study, *model = parts[:-1]
    of = f", of {model[0]}" if model else ""
    return f"{kind.removesuffix('s')} {Path(parts[-1]).stem} of the study {study}{of}"


def _for_people(path: Path) -> tuple[str, list[str]]:
    """A figure or a table, and how large it is."""
    about = _of_study(path, "table" if path.suffix in (".csv", ".txt") else "picture")
    if path.suffix == ".csv":
        import csv

        with path.open(encoding="utf-8", newline="") as file:
            heading, *rows = csv.reader(file)
        return about, [f"  {count(len(rows), 'row')} of {_some(heading, 12)}"]
    if path.suffix == ".txt":
        return about, [f"  {line}" for line in path.read_text(encoding="utf-8").splitlines()[:5]]
    if path.suffix == ".png":
        head = path.read_bytes()[16:24]
        return about, [f"  {int.from_bytes(head[:4])} × {int.from_bytes(head[4:])} pixels"]
    found = re.search(r'<svg[^>]* width="([\d.]+)pt" height="([\d.]+)pt"', path.read_text("utf-8"))
    return about, [f"  {found[1]} × {found[2]} pt"] if found else []


def _folder(path: Path) -> list[str]:
    layers = [file for file in path.glob("*.h5") if re.match(r"(layer-\d+|final)$", file.stem)]
    layers.sort(key=lambda file: (file.stem == "final", file.stem))
    if layers:
        return _layers(path, layers)
    if path.name == RESULTS.name and any((path / kind).is_dir() for kind in KINDS):
        return _results(path)
    folders = [folder for folder in sorted(path.iterdir()) if not folder.name.startswith(".")]
    if not folders:
        raise MicrotomeError(f"{path}: an empty folder")
    if not _place(path):
        if (path / RESULTS).is_dir():
            return _results(path / RESULTS)
        raise MicrotomeError(f"{path}: has no products; name a folder in results/")
    rows = [[item.name, *_sum(_products(item))] for item in folders]
    return [f"{path}: {', '.join(_sum(_products(path)))}", *columns(rows)]


def _layers(path: Path, layers: list[Path]) -> list[str]:
    """A folder of layer files, described by one of them."""
    import h5py

    with h5py.File(layers[0]) as first:
        sites = [name for name in DIMENSIONS if name in first]
        found = [*_model_line(first), *_variables(first, sites), *_tokens(first)]
    n_bytes = sum(file.stat().st_size for file in layers)
    head = f"{path}: activations, {_some([file.stem for file in layers], 4)}"
    return [f"{head}, {size(n_bytes)}", *found]


def _products(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for folder, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder, name) for name in files if not name.startswith("."))


def _sum(files: Iterator[Path]) -> tuple[str, str]:
    sizes = [file.stat().st_size for file in files]
    return count(len(sizes), "file"), size(sum(sizes))


def _results(path: Path) -> list[str]:
    """All products of a run, by kind, and which of them are not as they were made."""
    rows = [[kind, *_sum(_products(path / kind))] for kind in KINDS if (path / kind).is_dir()]
    with chdir(path.parent):
        recorded = recorded_files()
        missing = [file for file in recorded if not file.exists()]
        there = [file for kind in KINDS for file in _products(RESULTS / kind)]
        unrecorded = sorted(set(there) - set(recorded))
        touched = [f for f in there if f not in unrecorded and not untouched(f) and fault(f)]
    said = (("missing", missing), ("without a record", unrecorded), ("changed since", touched))
    faults = [
        f"  {count(len(files), 'file')} {how}: {_some(list(map(str, files)), 4)}"
        for how, files in said
        if files
    ]
    end = faults or ["  all on record; `microtome verify` reads them to compare"]
    return [f"{path}: {', '.join(_sum(_products(path)))}", *columns(rows), *end]
