"""Layer files: what the sweep reads of a model, written as it comes, one HDF5 file per layer.

Kept apart from `microtome.store.datasets`, which reads them: the sweep starts a second earlier
without xarray. Chunks carry Fletcher-32 checksums, so that a damaged one cannot be read.
"""

import io
import math
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
from numpy.typing import ArrayLike

from microtome.errors import MicrotomeError
from microtome.sites import DIMENSIONS
from microtome.store.files import replacing

#: Bytes per chunk aimed at: whole rows, so that one token or one sequence is a short read.
CHUNK_BYTES = 1 << 20


def _bfloat16() -> h5py.Datatype:
    """The upper half of a float32, as a type of HDF5's; h5py and xarray read it as float32."""
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)  # the sign's bit; exponent and mantissa, where and how long
    kind.set_size(2)
    return h5py.Datatype(kind)


_BFLOAT16 = _bfloat16()
#: What values are stored in, as numpy handles them.
_DTYPES = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
}


def read_columns(path: str | Path) -> dict[str, np.ndarray]:
    """Read the columns of a token table or of a layer file, by name."""
    with h5netcdf.File(path) as file:
        return {name: variable[...] for name, variable in file.variables.items()}


def layer_of(path: str | Path) -> int | None:
    """The layer that a name such as `layer-06.h5` or `resid-06.h5` has; None for `final.h5`."""
    stem = Path(path).stem
    return None if stem == "final" else int(stem.rpartition("-")[2])


@dataclass(frozen=True)
class Section:
    """What one batch shows of one layer.

    Attributes:
        layer: the block's index, or None after the last block.
        rows: the rows of the token table, ascending, shape (n,).
        values: for each site, an array (n, …) with the site's `DIMENSIONS`.
    """

    layer: int | None
    rows: np.ndarray
    values: Mapping[str, np.ndarray]


def read_section(path: str | Path) -> Section:
    """All that a layer file holds, in float32."""
    with h5py.File(path) as file:
        values = {s: file[s][...].astype(np.float32, copy=False) for s in file if s in DIMENSIONS}
        return Section(layer_of(path), np.arange(len(file["token"])), values)


def write_layers(
    sections: Iterable[Section],
    columns: Mapping[str, ArrayLike],
    paths: Mapping[int | None, str | Path],
    attributes: Mapping[str, str],
    dtype: str = "float32",
) -> None:
    """Write sections into one file per layer, each complete before the next is begun.

    Args:
        sections: layer by layer, as the sweep yields them.
        columns: what the rows are, by name, (token,) each; repeated in every file.
        paths: the file of each layer.
        attributes: attributes of every file; `layer` is added, `final` after the last block.
        dtype: what values are stored in: float32, bfloat16 or float16.

    Raises:
        MicrotomeError: a value is NaN or infinite, or beyond the range of float16.
    """
    n_tokens = len(columns["token_id"])
    blank: tuple[dict[str, tuple[int, ...]], bytes] | None = None
    for layer, group in groupby(sections, key=attrgetter("layer")):
        path = Path(paths[layer])
        place = "final" if layer is None else layer
        missing = np.ones(n_tokens, dtype=bool)
        first = next(group)
        shapes = {site: values.shape[1:] for site, values in first.values.items()}
        if blank is None or blank[0] != shapes:
            blank = shapes, _blank(columns, attributes, shapes, dtype)
        with replacing(path) as unfinished:
            unfinished.write_bytes(blank[1])
            with h5py.File(unfinished, "r+") as file:
                file.attrs["layer"] = place
                group = chain(iter([first]), group)
                del first
                for section in group:
                    _write_section(file, section, f"{path}: layer {place}", dtype)
                    missing[section.rows] = False
                    del section  # before the next one is waited for
            if missing.any():
                raise ValueError(f"{path}: {missing.sum()} rows were never written")


def _write_section(file: h5py.File, section: Section, place: str, dtype: str) -> None:
    """Write a section's values into a layer file; `place` is what an error names."""
    for site, values in section.values.items():
        if not np.isfinite(values).all():
            raise MicrotomeError(
                f"{place}, site {site}: NaN or infinite activations; check the checkpoint's "
                "weights and `dtype` in the config's `sweep`"
            )
        stored = _stored(values, dtype)
        if dtype == "float16" and not np.isfinite(stored).all():
            raise MicrotomeError(
                f"{place}, site {site}: activations beyond 65504, the largest number of float16; "
                "set `store_dtype` in the config's `sweep` to bfloat16 or float32"
            )
        _write_rows(file[site], section.rows, stored)


def write_layers_beside(
    sections: Iterable[Section],
    columns: Mapping[str, ArrayLike],
    paths: Mapping[int | None, str | Path],
    attributes: Mapping[str, str],
    dtype: str = "float32",
) -> None:
    """Do as `write_layers` in a thread of its own, while this one computes the sections.

    One section is written while the next is computed, so that memory does not grow with their
    number, however slow the disk is.
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
        written = pool.submit(write_layers, arriving(), columns, paths, attributes, dtype)
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
    """Ends the writer when the sections end with an error."""


def _blank(
    columns: Mapping[str, ArrayLike],
    attributes: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
) -> bytes:
    """A layer file without values, made once: naming dimensions takes longer than the values.

    Args:
        columns: what the rows are.
        attributes: attributes of the file.
        shapes: of each site, the shape of one row's values.
        dtype: what values are stored in.
    """
    image = io.BytesIO()
    with h5netcdf.File(image, "w") as file:
        file.attrs.update(attributes)
        file.dimensions["token"] = len(columns["token_id"])
        for name, values in columns.items():
            values = np.asarray(values)
            kind = values.dtype if values.dtype.kind in "bif" else h5py.string_dtype()
            file.create_variable(name, ("token",), kind)[:] = values
        for site, shape in shapes.items():
            for dimension, size in zip(DIMENSIONS[site], shape, strict=True):
                if dimension not in file.dimensions:
                    file.dimensions[dimension] = size
    with h5py.File(image, "r+") as file:
        for site, shape in shapes.items():
            _create_site(file, site, shape, dtype).attrs["coordinates"] = " ".join(columns)
    return image.getvalue()


def _create_site(file: h5py.File, site: str, shape: tuple[int, ...], dtype: str) -> h5py.Dataset:
    n_rows = len(file["token"])
    # Chunks of one size, since the last one takes a full one's room too.
    most = max(1, CHUNK_BYTES // (_DTYPES[dtype].itemsize * math.prod(shape)))
    rows = math.ceil(n_rows / math.ceil(n_rows / most))
    dataset = file.create_dataset(
        site,
        (n_rows, *shape),
        _BFLOAT16 if dtype == "bfloat16" else _DTYPES[dtype],
        chunks=(rows, *shape),
        fletcher32=True,
    )
    for axis, dimension in enumerate(("token", *DIMENSIONS[site])):
        dataset.dims[axis].attach_scale(file[dimension])
    return dataset


def _stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """Round float32 to the dtype of the store; bfloat16 as its bits, numpy has none."""
    if dtype != "bfloat16":
        with np.errstate(over="ignore"):
            return values.astype(_DTYPES[dtype], copy=False)
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)  # half to even


def _write_rows(dataset: h5py.Dataset, rows: np.ndarray, values: np.ndarray) -> None:
    """Write consecutive rows at once: HDF5 is slow with scattered ones."""
    # As the type of the file, so that HDF5 has nothing to convert.
    kind = dataset.id.get_type()
    gaps = np.flatnonzero(np.diff(rows) != 1) + 1
    for run, part in zip(np.split(rows, gaps), np.split(values, gaps), strict=True):
        place = dataset.id.get_space()
        place.select_hyperslab((int(run[0]), *[0] * (part.ndim - 1)), part.shape)
        dataset.id.write(
            h5py.h5s.create_simple(part.shape), place, np.ascontiguousarray(part), kind
        )
