"""The store: one HDF5 file per layer, and labelled datasets for everything else.

Every file opens as it stands with `xarray.open_dataset(path, engine="h5netcdf")`. A file is
written under a temporary name, flushed to disk and renamed: what carries its final name is
whole. Chunks carry Fletcher-32 checksums, so that a damaged one cannot be read. Nothing in a
file depends on the time or the place of its making.
"""

import io
import math
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from queue import Full, Queue
from threading import Event

import h5netcdf
import h5py
import numpy as np
import xarray as xr

from microtome.architectures import DIMENSIONS
from microtome.errors import MicrotomeError

#: Bytes per chunk aimed at: whole rows, so that one token or one sequence is a short read.
CHUNK_BYTES = 1 << 20


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; flush and rename it when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.partial")
    try:
        yield unfinished
        with unfinished.open("rb+") as stream:
            os.fsync(stream.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_dataset(dataset: xr.Dataset, path: str | Path) -> None:
    """Write a labelled dataset (a token table, a statistic) as a product."""
    plain = dataset.copy()
    for variable in plain.variables.values():
        variable.encoding = {}
    with replacing(Path(path)) as unfinished:
        plain.to_netcdf(unfinished, engine="h5netcdf")


def read_dataset(path: str | Path) -> xr.Dataset:
    """Read a product of `write_dataset` into memory.

    Raises:
        MicrotomeError: the file is missing or damaged.
    """
    with _readable(Path(path)), xr.open_dataset(path, engine="h5netcdf") as dataset:
        return dataset.load()


@contextmanager
def open_layer(path: str | Path) -> Iterator[xr.Dataset]:
    """Open one layer's activations; values are read when they are used.

    Yields:
        A dataset with one variable per site, (`token`, …) as in `DIMENSIONS`, float32, the
        token coordinates, and the attribute `layer`.

    Raises:
        MicrotomeError: the file is missing or damaged, at opening or at reading.
    """
    with _readable(Path(path)), xr.open_dataset(path, engine="h5netcdf") as section:
        yield section


def layer_of(path: str | Path) -> int | None:
    """The layer that a file name such as `layer-06.h5` names; None for `final.h5`."""
    stem = Path(path).stem
    return None if stem == "final" else int(stem.removeprefix("layer-"))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise MicrotomeError(f"{path}: missing; run the workflow again to make it") from None
    except OSError as error:
        raise MicrotomeError(
            f"{path}: damaged ({str(error).splitlines()[0]}); delete it and run again"
        ) from None


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
    table: xr.Dataset,
    paths: Mapping[int | None, str | Path],
    attributes: Mapping[str, str],
) -> None:
    """Write sections into one file per layer, each complete before the next is begun.

    Args:
        sections: layer by layer, as the sweep yields them.
        table: the token table; its coordinates are repeated in every file.
        paths: the file of each layer.
        attributes: attributes of every file; `layer` is added, `final` after the last block.

    Raises:
        MicrotomeError: a value is NaN or infinite.
    """
    blank: tuple[dict[str, tuple[int, ...]], bytes] | None = None
    for layer, group in groupby(sections, key=attrgetter("layer")):
        path = Path(paths[layer])
        place = "final" if layer is None else layer
        missing = np.ones(table.sizes["token"], dtype=bool)
        first = next(group)
        shapes = {site: values.shape[1:] for site, values in first.values.items()}
        if blank is None or blank[0] != shapes:
            blank = shapes, _blank(table, attributes, shapes)
        with replacing(path) as unfinished:
            unfinished.write_bytes(blank[1])
            with h5py.File(unfinished, "r+") as file:
                file.attrs["layer"] = place
                for section in chain([first], group):
                    for site, values in section.values.items():
                        if not np.isfinite(values).all():
                            raise MicrotomeError(
                                f"layer {place}, site {site}: NaN or infinite activations; "
                                "check the checkpoint's weights and the compute dtype"
                            )
                        _write_rows(file[site], section.rows, values)
                    missing[section.rows] = False
            if missing.any():
                raise ValueError(f"{path}: {missing.sum()} rows were never written")


def write_layers_beside(
    sections: Iterable[Section],
    table: xr.Dataset,
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
        written = pool.submit(write_layers, arriving(), table, paths, attributes)
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
    table: xr.Dataset, attributes: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> bytes:
    """A layer file without values, made once: naming dimensions takes longer than the values.

    Args:
        table: the token table.
        attributes: attributes of the file.
        shapes: of each site, the shape of one token's values.
    """
    image = io.BytesIO()
    with h5netcdf.File(image, "w") as file:
        file.attrs.update(attributes)
        _write_coordinates(file, table)
        for site, shape in shapes.items():
            _create_site(file, site, shape, tuple(table.coords))
    return image.getvalue()


def _write_coordinates(file: h5netcdf.File, table: xr.Dataset) -> None:
    file.dimensions["token"] = table.sizes["token"]
    for name, coordinate in table.coords.items():
        text = coordinate.dtype.kind not in "bif"
        dtype = h5py.string_dtype() if text else coordinate.dtype
        file.create_variable(name, ("token",), dtype)[:] = coordinate.values


def _create_site(
    file: h5netcdf.File, site: str, shape: tuple[int, ...], coordinates: tuple[Hashable, ...]
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
