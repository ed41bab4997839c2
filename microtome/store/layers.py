"""Layer files: the activations that a sweep reads, one HDF5 file per layer.

Kept apart from `microtome.store.datasets`, which reads them: the sweep starts a second earlier
without xarray. The values of a site lie in one piece, row after row, or compressed in chunks
(`microtome.store.compression`). They have no checksums of their own: `microtome.store.checksums`
compares the whole file before a job reads it.
"""

import io
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Semaphore

import h5netcdf
import h5py
import numpy as np

from microtome.errors import MicrotomeError
from microtome.sites import ABSENT, DIMENSIONS, KEYED_SITES, dimensions
from microtome.store.bfloat16 import BFLOAT16, read_values, rounded_bits
from microtome.store.compression import COMPRESSION, chunked, compress, require_filter
from microtome.store.files import removed, replacing
from microtome.store.virtual import SHARDS, require_shards

#: The dtypes of the store, as numpy has them; bfloat16 as its bits.
_DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
}


def read_columns(path: str | Path) -> dict[str, np.ndarray]:
    """Read the columns of a token table or of a layer file, by name.

    Raises:
        MicrotomeError: a shard of a virtual file is missing or damaged.
    """
    with h5netcdf.File(path) as file:
        require_shards(path, file.attrs.get(SHARDS, ""))
        return {name: variable[...] for name, variable in file.variables.items()}


def layer_of(path: str | Path) -> int | None:
    """The layer in a file name such as `layer-06.h5` or `resid-06.h5`; None for `final.h5`."""
    stem = Path(path).stem
    return None if stem == "final" else int(stem.rpartition("-")[2])


@dataclass(frozen=True)
class Section:
    """The activations of one batch in one layer.

    Attributes:
        layer: the block's index, or None after the last block.
        rows: the rows of the token table, ascending, shape (n,).
        values: for each site, an array (n, …) with the site's `DIMENSIONS`.
    """

    layer: int | None
    rows: np.ndarray
    values: Mapping[str, np.ndarray]


def read_section(path: str | Path) -> Section:
    """Read all activations of a layer file, as float32."""
    with h5py.File(path) as file:
        stored = {site: read_values(file[site]) for site in file if site in DIMENSIONS}
        values = {site: array.astype(np.float32, copy=False) for site, array in stored.items()}
        return Section(layer_of(path), np.arange(len(file["token"])), values)


def write_layers(
    sections: Iterable[Section],
    columns: Mapping[str, np.ndarray],
    paths: Mapping[int | None, str | Path],
    attributes: Mapping[str, str],
    dtype: str = "float32",
    compression: str = "none",
    sizes: Mapping[str, int] | None = None,
    threads: int = 1,
) -> None:
    """Write sections into one file per layer, each complete before the next is begun.

    Rows come in the order of batches, and a chunk of rows is compressed in one piece. So a layer
    that is to be compressed is written to a plain file first, which is removed afterwards.

    Args:
        sections: layer by layer, as the sweep yields them.
        columns: the token coordinates of the rows by name, (token,) each; every file has them.
        paths: the file of each layer.
        attributes: attributes of every file. To these is added `layer`: a number, or `final` after
            the last block.
        dtype: the dtype of the stored values: float32, bfloat16 or float16.
        compression: none or zstd.
        sizes: the model's dimensions, where `microtome.sites.dimensions` depends on them.
        threads: how many compress.

    Raises:
        MicrotomeError: a value is infinite, or beyond the range of float16, or NaN where that does
            not mean an absent key; hdf5plugin is not installed, and the files are compressed.
    """
    known: dict[str, tuple[int, ...]] | None = None
    for layer, group in groupby(sections, key=attrgetter("layer")):
        path = Path(paths[layer])
        first = next(group)
        shapes = {site: values.shape[1:] for site, values in first.values.items()}
        require_filter(path, compression)
        if shapes != known:
            known, about = shapes, (columns, attributes, shapes, dtype, sizes)
            blanks = {kind: _blank(*about, kind) for kind in ("none", compression)}
        group = chain(iter([first]), group)
        del first
        with replacing(path) as unfinished:
            if compression == "none":
                _write_layer(unfinished, blanks["none"], layer, group, path, dtype)
            else:
                with removed(unfinished.with_suffix(".plain")) as plain:
                    _write_layer(plain, blanks["none"], layer, group, path, dtype)
                    unfinished.write_bytes(blanks[compression])
                    compress(plain, unfinished, shapes, threads)


def _write_layer(
    plain: Path,
    blank: bytes,
    layer: int | None,
    sections: Iterable[Section],
    path: Path,
    dtype: str,
) -> None:
    """Write a layer's sections into a plain file; errors name `path`."""
    place = "final" if layer is None else layer
    plain.write_bytes(blank)
    with h5py.File(plain, "r+") as file:
        file.attrs["layer"] = place
        missing = np.ones(len(file["token"]), dtype=bool)
        for section in sections:
            _write_section(file, section, f"{path}: layer {place}", dtype)
            missing[section.rows] = False
            del section  # before the next one is waited for
    if missing.any():
        raise ValueError(f"{path}: {missing.sum()} rows were never written")


def _write_section(file: h5py.File, section: Section, place: str, dtype: str) -> None:
    """Write a section's values into a layer file; errors begin with `place`."""
    for site, values in section.values.items():
        if not is_sound(values, site):
            raise MicrotomeError(
                f"{place}, site {site}: NaN or infinite activations; check the checkpoint's "
                "weights and `dtype` in the config's `sweep`"
            )
        stored = _stored(values, dtype)
        if dtype == "float16" and np.isinf(stored).any():
            raise MicrotomeError(
                f"{place}, site {site}: activations beyond 65504, the largest number of float16; "
                "set `dtype` in the config's `store` to bfloat16 or float32"
            )
        _write_rows(file[site], section.rows, stored)


def is_sound(values: np.ndarray, site: str) -> bool:
    """Whether values are finite, but for absent keys; every token reaches one key at least."""
    if site not in KEYED_SITES:
        return bool(np.isfinite(values).all())
    return not (np.isinf(values).any() or np.isnan(values).all(-1).any())


def write_layers_beside(
    sections: Iterable[Section],
    columns: Mapping[str, np.ndarray],
    paths: Mapping[int | None, str | Path],
    attributes: Mapping[str, str],
    dtype: str = "float32",
    compression: str = "none",
    sizes: Mapping[str, int] | None = None,
    threads: int = 1,
) -> None:
    """Do as `write_layers`, in a second thread, while this one computes the sections.

    One section is written while the next is computed. No third one waits, so that memory does not
    grow if the disk is slow.
    """
    handed: SimpleQueue[Section | None] = SimpleQueue()
    taken = Semaphore(0)
    interrupted = Event()

    def arriving() -> Iterator[Section]:
        while (section := handed.get()) is not None:
            taken.release()
            yield section
            del section  # before the next one is waited for
        if interrupted.is_set():
            raise _Interrupted

    with ThreadPoolExecutor(max_workers=1) as pool:
        how = (dtype, compression, sizes, threads)
        written = pool.submit(write_layers, arriving(), columns, paths, attributes, *how)
        written.add_done_callback(lambda done: taken.release())
        try:
            for section in sections:
                handed.put(section)
                del section  # the writer's from here on
                taken.acquire()
                if written.done():
                    break  # the writer has failed
        except BaseException:
            interrupted.set()
            raise
        finally:
            handed.put(None)
        written.result()


class _Interrupted(Exception):
    """Raised in the writer if computing the sections failed."""


def _blank(
    columns: Mapping[str, np.ndarray],
    attributes: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
    sizes: Mapping[str, int] | None,
    compression: str,
) -> bytes:
    """Make a layer file without values, of which every layer's file begins as a copy.

    Naming the dimensions takes longer than writing the values.

    Args:
        columns: the token coordinates of the rows by name, (token,) each.
        attributes: attributes of the file.
        shapes: the shape of one row's values at each site.
        dtype: the dtype of the stored values.
        sizes: the model's dimensions.
        compression: none or zstd.
    """
    about = {} if compression == "none" else {COMPRESSION: compression}
    image = io.BytesIO()
    with h5netcdf.File(image, "w") as file:
        file.attrs.update({**attributes, **about})
        file.dimensions["token"] = len(columns["token_id"])
        for name, values in columns.items():
            values = np.asarray(values)
            kind = values.dtype if values.dtype.kind in "bif" else h5py.string_dtype()
            file.create_variable(name, ("token",), kind)[:] = values
        for site, shape in shapes.items():
            for dimension, size in zip(dimensions(site, sizes or {}), shape, strict=True):
                if dimension not in file.dimensions:
                    file.dimensions[dimension] = size
    with h5py.File(image, "r+") as file:
        for site, shape in shapes.items():
            names = ("token", *dimensions(site, sizes or {}))
            created = _create_site(file, site, names, shape, dtype, compression)
            created.attrs["coordinates"] = " ".join(columns)
    return image.getvalue()


def _create_site(
    file: h5py.File,
    site: str,
    names: tuple[str, ...],
    shape: tuple[int, ...],
    dtype: str,
    compression: str,
) -> h5py.Dataset:
    stored = BFLOAT16 if dtype == "bfloat16" else _DTYPES[dtype]
    shape = (len(file["token"]), *shape)
    how = {} if compression == "none" else chunked(shape, _DTYPES[dtype].itemsize)
    dataset = file.create_dataset(site, shape, stored, **how)
    for axis, dimension in enumerate(names):
        dataset.dims[axis].attach_scale(file[dimension])
    if site in KEYED_SITES:
        dataset.attrs["_FillValue"] = np.array(np.nan, np.float16 if dtype == "float16" else "<f4")
        dataset.attrs["comment"] = ABSENT
    return dataset


def _stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """Round float32 to the dtype of the store; bfloat16, which numpy lacks, as its bits."""
    if dtype == "bfloat16":
        return rounded_bits(values)
    with np.errstate(over="ignore"):
        return values.astype(_DTYPES[dtype], copy=False)


def _write_rows(dataset: h5py.Dataset, rows: np.ndarray, values: np.ndarray) -> None:
    """Write consecutive rows at once: HDF5 is slow with scattered ones."""
    # Written as the file's own type, so that HDF5 does not convert.
    kind = dataset.id.get_type()
    gaps = np.flatnonzero(np.diff(rows) != 1) + 1
    for run, part in zip(np.split(rows, gaps), np.split(values, gaps), strict=True):
        place = dataset.id.get_space()
        place.select_hyperslab((int(run[0]), *[0] * (part.ndim - 1)), part.shape)
        dataset.id.write(
            h5py.h5s.create_simple(part.shape), place, np.ascontiguousarray(part), kind
        )
