"""Layer files: what the sweep reads of a model, written as it comes, one HDF5 file per layer.

Kept apart from `microtome.store`, which reads them: the sweep starts a second earlier without
xarray. Chunks carry Fletcher-32 checksums, so that a damaged one cannot be read.
"""

import io
import math
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from queue import Full, Queue
from threading import Event

import h5netcdf
import h5py
import numpy as np
from numpy.typing import ArrayLike

from microtome.architectures import DIMENSIONS
from microtome.errors import MicrotomeError
from microtome.products import replacing

#: Bytes per chunk aimed at: whole rows, so that one token or one sequence is a short read.
CHUNK_BYTES = 1 << 20


def read_columns(path: str | Path) -> dict[str, np.ndarray]:
    """Read a token table's columns, by name, (token,) each."""
    with h5netcdf.File(path) as file:
        return {name: variable[...] for name, variable in file.variables.items()}


def sequences(columns: Mapping[str, ArrayLike]) -> list[np.ndarray]:
    """The token ids of each sequence of a token table, in order.

    Args:
        columns: the token table's columns by name, (token,) each.
    """
    starts = np.flatnonzero(np.diff(np.asarray(columns["sequence"]), prepend=-1))
    return np.split(np.asarray(columns["token_id"]), starts[1:])


def layer_of(path: str | Path) -> int | None:
    """The layer that a file name such as `layer-06.h5` names; None for `final.h5`."""
    stem = Path(path).stem
    return None if stem == "final" else int(stem.removeprefix("layer-"))


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


def write_layers(
    sections: Iterable[Section],
    columns: Mapping[str, ArrayLike],
    paths: Mapping[int | None, str | Path],
    attributes: Mapping[str, str],
) -> None:
    """Write sections into one file per layer, each complete before the next is begun.

    Args:
        sections: layer by layer, as the sweep yields them.
        columns: the token table's, by name, (token,) each; repeated in every file.
        paths: the file of each layer.
        attributes: attributes of every file; `layer` is added, `final` after the last block.

    Raises:
        MicrotomeError: a value is NaN or infinite.
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
            blank = shapes, _blank(columns, attributes, shapes)
        with replacing(path) as unfinished:
            unfinished.write_bytes(blank[1])
            with h5py.File(unfinished, "r+") as file:
                file.attrs["layer"] = place
                for section in chain([first], group):
                    for site, values in section.values.items():
                        if not np.isfinite(values).all():
                            raise MicrotomeError(
                                f"{path}: layer {place}, site {site}: NaN or infinite activations; "
                                "check the checkpoint's weights and the compute dtype"
                            )
                        _write_rows(file[site], section.rows, values)
                    missing[section.rows] = False
            if missing.any():
                raise ValueError(f"{path}: {missing.sum()} rows were never written")


def write_layers_beside(
    sections: Iterable[Section],
    columns: Mapping[str, ArrayLike],
    paths: Mapping[int | None, str | Path],
    attributes: Mapping[str, str],
) -> None:
    """Do as `write_layers` in a thread of its own, while this one computes the sections.

    At most two sections wait to be written, so that memory does not grow with their number.
    """
    waiting: Queue[Section | None] = Queue(maxsize=2)
    stopped = Event()

    def arriving() -> Iterator[Section]:
        while (section := waiting.get()) is not None:
            yield section
        if stopped.is_set():
            raise _Interrupted

    with ThreadPoolExecutor(max_workers=1) as pool:
        written = pool.submit(write_layers, arriving(), columns, paths, attributes)
        written.add_done_callback(lambda done: stopped.set())
        try:
            for section in sections:
                if not _put(waiting, section, stopped):
                    break
        except BaseException:
            stopped.set()
            raise
        finally:
            while not written.done():  # the writer may have ended without taking the last one
                with suppress(Full):
                    waiting.put(None, timeout=0.1)
                    break
        written.result()


class _Interrupted(Exception):
    """Ends the writer when the sections end with an error."""


def _put(waiting: Queue, section: Section, stopped: Event) -> bool:
    """Hand a section over; False if the writer has failed."""
    while not stopped.is_set():
        with suppress(Full):
            waiting.put(section, timeout=0.1)
            return True
    return False


def _blank(
    columns: Mapping[str, ArrayLike],
    attributes: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
) -> bytes:
    """A layer file without values, made once: naming dimensions takes longer than the values.

    Args:
        columns: the token table's.
        attributes: attributes of the file.
        shapes: of each site, the shape of one token's values.
    """
    image = io.BytesIO()
    with h5netcdf.File(image, "w") as file:
        file.attrs.update(attributes)
        _write_coordinates(file, columns)
        for site, shape in shapes.items():
            _create_site(file, site, shape, tuple(columns))
    return image.getvalue()


def _write_coordinates(file: h5netcdf.File, columns: Mapping[str, ArrayLike]) -> None:
    file.dimensions["token"] = len(columns["token_id"])
    for name, values in columns.items():
        values = np.asarray(values)
        dtype = values.dtype if values.dtype.kind in "bif" else h5py.string_dtype()
        file.create_variable(name, ("token",), dtype)[:] = values


def _create_site(
    file: h5netcdf.File, site: str, shape: tuple[int, ...], coordinates: tuple[str, ...]
) -> None:
    for dimension, size in zip(DIMENSIONS[site], shape, strict=True):
        if dimension not in file.dimensions:
            file.dimensions[dimension] = size
    n_tokens = file.dimensions["token"].size
    # Chunks of one size, since the last one takes a full one's room too.
    most = max(1, CHUNK_BYTES // (4 * math.prod(shape)))
    rows = math.ceil(n_tokens / math.ceil(n_tokens / most))
    variable = file.create_variable(
        site, ("token", *DIMENSIONS[site]), np.float32, chunks=(rows, *shape), fletcher32=True
    )
    variable.attrs["coordinates"] = " ".join(map(str, coordinates))


def _write_rows(dataset: h5py.Dataset, rows: np.ndarray, values: np.ndarray) -> None:
    """Write consecutive rows at once: HDF5 is slow with scattered ones."""
    gaps = np.flatnonzero(np.diff(rows) != 1) + 1
    for run, part in zip(np.split(rows, gaps), np.split(values, gaps), strict=True):
        dataset[run[0] : run[-1] + 1] = part
