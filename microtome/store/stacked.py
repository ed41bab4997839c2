"""The layer files of a folder as one dataset, of which only what is used is read.

Without dask, which `xarray.open_mfdataset` wants for that: xarray asks for some rows of some
layers, and gets them from these layers' files.
"""

import re
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core.indexing import (
    ExplicitIndexer,
    IndexingSupport,
    LazilyIndexedArray,
    explicit_indexing_adapter,
)

from microtome.errors import MicrotomeError
from microtome.store.bfloat16 import read_values
from microtome.store.datasets import open_layer
from microtome.store.virtual import opened


def open_layers(folder: str | Path) -> xr.Dataset:
    """Open a folder of layer files. Values are read when they are used; no file stays open.

    Args:
        folder: a folder with `layer-00.h5`, … and perhaps `final.h5`.

    Returns:
        A dataset with one variable per site of blocks, (`layer`, `token`, …) with the dimensions
        of `microtome.sites.DIMENSIONS`, and one per site after the last block, (`token`, …); in
        the stored dtype, bfloat16 as float32. `layer` has the layers' numbers, and the token
        columns are coordinates of `token`.

    Raises:
        MicrotomeError: no such files, files of different sweeps, or a damaged one; the latter also
            where values are read.
    """
    return xr.open_dataset(folder, engine=_LayerFolder)


def read_layers(files: Sequence[str | Path], site: str) -> xr.DataArray:
    """Read a site of blocks from some layer files of one sweep.

    Only the first is opened as a dataset, for its token columns: that takes thirty times as long as
    to read the values of a short text.

    Args:
        files: the files, in the order of their layers.
        site: the site.

    Returns:
        (`layer`, `token`, …) as `open_layers` has it.

    Raises:
        MicrotomeError: a file is missing or damaged.
    """
    with open_layer(files[0]) as layer:
        first = layer[site]
        columns = first.coords.to_dataset().load().coords
    values = np.empty((len(files), *first.shape), first.dtype)
    layers = []
    for place, file in enumerate(map(Path, files)):
        with opened(file) as one:
            values[place] = read_values(one[site])
            layers.append(int(one.attrs["layer"]))
    coordinates = {"layer": layers, **columns}
    return xr.DataArray(values, coordinates, ("layer", *first.dims), site, first.attrs)


class _LayerFolder(BackendEntrypoint):
    """Opens a folder for xarray, which keeps in memory what has been read of it."""

    def open_dataset(  # type: ignore[override]  # it opens nothing but folders
        self,
        filename_or_obj: str | PathLike[Any],
        *,
        drop_variables: str | Iterable[str] | None = None,
    ) -> xr.Dataset:
        folder = Path(filename_or_obj)
        named = ((re.fullmatch(r"layer-(\d+)\.h5", file.name), file) for file in folder.iterdir())
        numbered = dict(sorted((int(match[1]), file) for match, file in named if match))
        layers = list(numbered.values())
        final = [file for file in [folder / "final.h5"] if file.exists()]
        files = layers + final
        if not files:
            raise MicrotomeError(
                f"{folder}: has no layer files; name a folder such as "
                "results/activations/MODEL/STIMULI, or a file"
            )
        heads = {file: _Head.of(file) for file in files}
        first = heads[files[0]]
        for file, head in heads.items():
            if not head.columns.identical(first.columns) or (
                file in layers and head.sites != first.sites
            ):
                raise MicrotomeError(
                    f"{file}: its tokens, sites or attributes are not those of {files[0].name}: "
                    "one of them is from an earlier sweep; delete it, or open a single file"
                )
        dataset = first.columns
        if layers:
            dataset = dataset.assign_coords(layer=list(numbered))
            dataset = dataset.assign(first.variables("layer", of=np.array(layers, dtype=object)))
        for file in final:
            dataset = dataset.assign(heads[file].variables(of=np.array(file, dtype=object)))
        return dataset.drop_vars(drop_variables or ())


class _Head(NamedTuple):
    """A layer file without its values.

    Attributes:
        columns: the token columns, and the attributes but `layer`.
        sites: dimensions, shape, dtype and attributes of each site.
    """

    columns: xr.Dataset
    sites: dict[str, tuple[tuple[str, ...], tuple[int, ...], np.dtype, dict[str, Any]]]

    @classmethod
    def of(cls, file: Path) -> "_Head":
        with open_layer(file) as one:
            sites = {
                str(site): (tuple(map(str, v.dims)), v.shape, v.dtype, v.attrs)
                for site, v in one.data_vars.items()
            }
            columns = one.drop_vars(sites).load()
        columns.attrs.pop("layer", None)
        return cls(columns, sites)

    def variables(self, *axes: str, of: np.ndarray) -> dict[str, xr.Variable]:
        """The sites of such files, along `axes` of an array of paths."""
        return {
            site: xr.Variable(
                (*axes, *dims), LazilyIndexedArray(_Site(of, site, shape, dtype)), attributes
            )
            for site, (dims, shape, dtype, attributes) in self.sites.items()
        }


class _Site(BackendArray):
    """A site in the files of an array of paths: the array's axes, then those in each file."""

    def __init__(
        self, files: np.ndarray, site: str, shape: tuple[int, ...], dtype: np.dtype
    ) -> None:
        self.files, self.site = files, site
        self.shape, self.dtype = (*files.shape, *shape), dtype

    def __getitem__(self, key: ExplicitIndexer) -> np.ndarray:
        return explicit_indexing_adapter(key, self.shape, IndexingSupport.OUTER_1VECTOR, self._read)

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        n = self.files.ndim
        files, rows = np.asarray(self.files[key[:n]], dtype=object), key[n:]
        shape = np.broadcast_to(self.dtype.type(), self.shape[n:])[rows].shape
        values = np.empty((*files.shape, *shape), self.dtype)
        for place, file in np.ndenumerate(files):
            with opened(file) as one:
                values[place] = read_values(one[self.site], rows)
        return values
