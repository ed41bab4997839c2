"""Labelled datasets in HDF5: token tables, activations of a layer, statistics.

Every file can be opened with `xarray.open_dataset(path, engine="h5netcdf")`. Its bytes do not
depend on when or where it was made.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import xarray as xr
from xarray.backends import H5NetCDFStore
from xarray.backends.h5netcdf_ import H5NetCDFArrayWrapper
from xarray.core.indexing import LazilyIndexedArray

from microtome.store.bfloat16 import is_bfloat16, read_values
from microtome.store.compression import COMPRESSION
from microtome.store.files import readable, replacing
from microtome.store.virtual import SHARDS, opened


def write_dataset(dataset: xr.Dataset, path: str | Path) -> None:
    """Write a labelled dataset, such as a token table or a statistic."""
    with replacing(path) as unfinished:
        write_unflushed(dataset, unfinished)


def write_unflushed(dataset: xr.Dataset, path: Path) -> None:
    """Do as `write_dataset`, but in place: until it is flushed to disk, the file may get lost."""
    plain = dataset.copy()
    for variable in plain.variables.values():
        variable.encoding = {}
    plain.to_netcdf(path, engine="h5netcdf")


def read_dataset(path: str | Path) -> xr.Dataset:
    """Read what `write_dataset` wrote into memory.

    Raises:
        MicrotomeError: the file is missing or damaged.
    """
    with open_file(path) as dataset, readable(Path(path)):
        return dataset.load()


def open_file(path: str | Path) -> xr.Dataset:
    """Open what `write_dataset` or `write_layers` wrote; values are read when they are used.

    A virtual or compressed file has the same attributes as if it were not.

    Raises:
        MicrotomeError: the file is missing or damaged, or a shard of a virtual one; it is
            compressed, and hdf5plugin is not installed.
    """
    with opened(path), readable(Path(path)):  # before xarray, which reads some values
        dataset = xr.open_dataset(_File.open(str(Path(path).absolute())), engine="store")
    for attribute in (SHARDS, COMPRESSION):
        dataset.attrs.pop(attribute, None)
    return dataset


@contextmanager
def open_layer(path: str | Path) -> Iterator[xr.Dataset]:
    """Open one layer's activations; values are read when they are used.

    Yields:
        A dataset with one variable per site, (`token`, …) with the dimensions of
        `microtome.sites.DIMENSIONS`, float32, with the token coordinates and the attribute `layer`.

    Raises:
        MicrotomeError: the file is missing or damaged; also raised where values are read.
    """
    with open_file(path) as section, readable(Path(path)):
        yield section


class _File(H5NetCDFStore):
    """A file for xarray, which would let HDF5 convert bfloat16."""

    def open_store_variable(self, name: str, var: h5netcdf.Variable) -> xr.Variable:
        variable = super().open_store_variable(name, var)
        if is_bfloat16(var._h5ds):
            variable.data = LazilyIndexedArray(_Bfloat16(name, self))
        return variable


class _Bfloat16(H5NetCDFArrayWrapper):
    """A variable in bfloat16."""

    def _getitem(self, key: tuple[Any, ...]) -> np.ndarray:
        with self.datastore.lock:
            return read_values(self.get_array(needs_lock=False)._h5ds, key)
