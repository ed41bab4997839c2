"""What is in a file of the store: activations, a token table, a statistic, an intervention."""

from collections import Counter
from pathlib import Path

import h5py

from microtome.show.lines import columns, count, some
from microtome.sites import DIMENSIONS
from microtome.store.virtual import SHARDS, opened


def store_lines(path: Path, name: str) -> tuple[str, list[str]]:
    """Tell what a file is, and what is in it.

    Args:
        path: the file.
        name: what it is, if it is neither activations nor a token table.

    Raises:
        MicrotomeError: the file is damaged, or a shard of it missing or damaged.
    """
    with opened(path) as file:
        parts = in_shards(len(file.attrs.get(SHARDS, "").splitlines()))
        if "layer" in file.attrs:
            layer = file.attrs["layer"]
            place = "after the last block" if layer == "final" else f"of layer {layer}"
            return f"activations {place}{parts}", layer_lines(path)
        if "token_id" in file and not _values(file):
            model = file.attrs.get("model")
            return f"token table{f' of {model}' if model else ''}{parts}", _table(file)
        return name, [*_variables(file, _values(file)), *_axes(file)]


def in_shards(number: int) -> str:
    """The end of what a virtual file is called."""
    return f" in {count(number, 'shard')}" if number else ""


def layer_lines(path: Path) -> list[str]:
    """Tell what is in a layer file: the model, its sites, the tokens."""
    with opened(path) as file:
        about = file.attrs
        revision = f" ({about['revision']})" if "revision" in about else ""
        computed = [f"{key} {about[key]}" for key in ("torch", "transformers") if key in about]
        return [
            f"  of {about.get('model', 'a model')}{revision}, computed in "
            f"{', '.join([about.get('dtype', 'float32'), *computed])}",
            *_variables(file, [name for name in DIMENSIONS if name in file]),
            _tokens(file),
        ]


def _values(file: h5py.File) -> list[str]:
    """The names of a file's variables that are neither dimensions nor coordinates."""
    named = [
        item.attrs["coordinates"] for item in (file, *file.values()) if "coordinates" in item.attrs
    ]
    coordinates = " ".join(named).split()
    return [name for name, item in file.items() if name not in coordinates and not item.is_scale]


def _variables(file: h5py.File, names: list[str]) -> list[str]:
    """A line for each variable: its dimensions with their sizes, and its dtype."""
    rows = []
    for name in names:
        item = file[name]
        axes = (
            f"{scale[0].name.lstrip('/') if len(scale) else 'dimension'} {length}"
            for scale, length in zip(item.dims, item.shape, strict=True)
        )
        rows.append([name, f"({', '.join(axes)})" if item.shape else "a number", _dtype(item)])
    return columns(rows)


def _dtype(item: h5py.Dataset) -> str:
    """A variable's dtype in the file; h5py reads bfloat16, the only one it lacks, as float32."""
    if item.dtype.kind == "O":
        return "text"
    return item.dtype.name if item.id.get_type().get_size() == item.dtype.itemsize else "bfloat16"


def _axes(file: h5py.File) -> list[str]:
    """A line for each dimension that has labels: its first and last ones."""
    rows = []
    for name, item in file.items():
        if item.is_scale and not item.attrs["NAME"].startswith(b"This is a netCDF dimension but"):
            labels = item.asstr()[...] if item.dtype.kind == "O" else item[...]
            rows.append([name, some([str(label) for label in labels])])
    return columns(rows)


def _table(file: h5py.File) -> list[str]:
    """A token table's columns, words or texts by category, and tokens."""
    lines = [f"  columns: {', '.join(name for name in file if not file[name].is_scale)}"]
    if "category" in file:
        labelled = file["word"].asstr() if "word" in file else file["sequence"]
        pairs = set(zip(file["category"].asstr()[...], labelled[...], strict=True))
        found = Counter(category for category, one in pairs if one != "")
        what = "words" if "word" in file else "texts"
        lines.append(f"  {what}: {', '.join(f'{name} {n}' for name, n in sorted(found.items()))}")
    return [*lines, _tokens(file)]


def _tokens(file: h5py.File) -> str:
    """How many tokens of how many texts there are, and the first ones."""
    n_texts = len(set(file["sequence"][...].tolist()))
    first = " ".join(repr(text) for text in file["text"].asstr()[:8])
    return f"  {count(len(file['text']), 'token')} of {count(n_texts, 'text')}: {first} …"
