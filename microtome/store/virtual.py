"""Virtual files: shards, each with some of the tokens, that read as one file.

A virtual file has no values of its own. HDF5 takes them from the shards while it reads; where a
shard is missing it reads fill values and says nothing. So the file lists its shards, and all that
opens it here looks whether they are there.
"""

import os
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np

from microtome.errors import MicrotomeError
from microtome.store.compression import COMPRESSION, require_filter
from microtome.store.files import readable, replacing

#: The attribute of a virtual file that lists its shards, a line each: SHA-256, bytes, path from the
#: file's own folder.
SHARDS = "shards"
#: Attributes of dimensions and of the libraries that write them; and the names of the columns.
_OTHERS = ("CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "_Netcdf4", "_NC", "coordinates")
#: Files that a process has open beside the shards of one file.
_BESIDES = 128


def join(path: str | Path, shards: Mapping[Path, str]) -> None:
    """Write a virtual file.

    Args:
        path: the file.
        shards: token tables or layer files, one after another, and the SHA-256 of each. They have
            the same attributes, dimensions and variables; of dimensions only `token`, and `key`
            where texts are of other lengths, differ in size. Columns of flags that some lack are 0
            there.

    Raises:
        MicrotomeError: a shard is missing, damaged or from another sweep.
    """
    path = Path(path)
    sizes, variables, attributes = {"token": 0}, dict[str, _Variable](), dict[str, Any]()
    listed: list[str] = []
    for shard, sha256 in shards.items():
        name = os.path.relpath(shard, path.parent)
        with readable(shard), h5py.File(shard) as file:
            found = _attributes(file)
            if listed and found.items() != attributes.items():
                raise MicrotomeError(
                    f"{shard}: its attributes are not those of the shards before it: one of them "
                    "is from an earlier sweep; delete it and run again"
                )
            attributes = found
            for label, item in file.items():
                if not item.is_scale:
                    if label not in variables:
                        variables[label] = _Variable.like(item)
                    variable = variables[label]
                    variable.sources.append((sizes["token"], name, item.shape))
                    for dimension, size in zip(
                        variable.dimensions[1:], item.shape[1:], strict=True
                    ):
                        sizes[dimension] = max(size, sizes.get(dimension, 0))
            if "row" in file:
                variables["row"].values.append(file["row"][...])
            sizes["token"] += len(file["token"])
        listed.append(f"{sha256} {shard.stat().st_size} {name}")
    columns = " ".join(name for name, v in variables.items() if v.dimensions == ["token"])
    with replacing(path) as unfinished:
        with h5netcdf.File(unfinished, "w") as file:
            file.dimensions = sizes
        with h5py.File(unfinished, "r+") as file:
            file.attrs.update(attributes | {SHARDS: "\n".join(listed)})
            for name, variable in variables.items():
                variable.write(file, name)
            # Of each variable that has some, or else of the file.
            sites = [file[name] for name, v in variables.items() if v.dimensions != ["token"]]
            for item in sites or [file]:
                item.attrs["coordinates"] = columns


@dataclass
class _Variable:
    """A variable of a virtual file.

    Attributes:
        dimensions: the names of its dimensions, `token` first.
        kind: its type in the files.
        attributes: its attributes.
        sources: of each shard that has it, the first token there, the shard's path and the
            variable's shape.
        values: of `row`, the shards' own values: rows are counted anew in each.
    """

    dimensions: list[str]
    kind: h5py.Datatype
    attributes: dict[str, Any]
    sources: list[tuple[int, str, tuple[int, ...]]] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def like(cls, item: h5py.Dataset) -> "_Variable":
        """One like that of a shard."""
        dimensions = [axis[0].name[1:] for axis in item.dims]
        return cls(dimensions, h5py.Datatype(item.id.get_type()), _attributes(item))

    def write(self, file: h5py.File, name: str) -> None:
        """Write it into a file that has its dimensions."""
        if self.values:
            item = file.create_dataset(name, data=_counted_on(self.values), dtype=self.kind)
        else:
            layout = h5py.VirtualLayout(tuple(len(file[d]) for d in self.dimensions), self.kind)
            layout.dcpl.set_obj_track_times(False)  # the same bytes at any time
            for first, source, shape in self.sources:
                place = (slice(first, first + shape[0]), *map(slice, shape[1:]))
                layout[place] = h5py.VirtualSource(source, name, shape, self.kind)
            missing = np.nan if len(self.dimensions) > 1 else None
            item = file.create_virtual_dataset(name, layout, missing)
        for axis, dimension in enumerate(self.dimensions):
            item.dims[axis].attach_scale(file[dimension])
        item.attrs.update(self.attributes)


def _attributes(item: h5py.File | h5py.Dataset) -> dict[str, Any]:
    """The attributes of a file or a variable, as they were given."""
    return {key: value for key, value in item.attrs.items() if not key.startswith(_OTHERS)}


def _counted_on(rows: list[np.ndarray]) -> np.ndarray:
    """Rows of the whole, from those that shards count for themselves."""
    before = np.cumsum([0, *(shard.max() + 1 for shard in rows[:-1])])
    return np.concatenate(
        [np.where(shard < 0, shard, shard + n) for shard, n in zip(rows, before, strict=True)]
    )


def shards_of(path: str | Path) -> list[Path]:
    """The shards of a virtual file, in order; none of any other file.

    Raises:
        MicrotomeError: the file is missing or damaged.
    """
    with readable(Path(path)), h5py.File(path) as file:
        return [shard for shard, _ in _listed(Path(path), file.attrs.get(SHARDS, ""))]


def bytes_of(path: str | Path) -> int:
    """The bytes of a file, with those of its shards if it is virtual.

    Raises:
        MicrotomeError: as `opened`.
    """
    with opened(path) as file:
        shards = _listed(Path(path), file.attrs.get(SHARDS, ""))
        return Path(path).stat().st_size + sum(n_bytes for _, n_bytes in shards)


def require_shards(path: str | Path, listed: str) -> None:
    """Refuse a virtual file that is not whole.

    Args:
        path: the file.
        listed: its attribute `SHARDS`; empty for any other file.

    Raises:
        MicrotomeError: a shard is missing or cut, or there are more than may be open at a time.
    """
    shards = _listed(Path(path), listed)
    for shard, n_bytes in shards:
        try:
            found = shard.stat().st_size
        except FileNotFoundError:
            raise MicrotomeError(f"{shard}: missing; make it: snakemake {path}") from None
        if found != n_bytes:
            raise MicrotomeError(
                f"{shard}: damaged ({found:,} bytes of {n_bytes:,}); delete it and make it again: "
                f"snakemake {path}"
            )
    _allow_open(len(shards) + _BESIDES, path)


@contextmanager
def opened(path: str | Path) -> Iterator[h5py.File]:
    """Open a file of the store, with all its shards if it is virtual, compressed or not.

    Raises:
        MicrotomeError: as `require_shards` and `require_filter`, or the file itself is missing or
            damaged.
    """
    with readable(Path(path)), h5py.File(path) as file:
        require_shards(path, file.attrs.get(SHARDS, ""))
        require_filter(path, file.attrs.get(COMPRESSION, "none"))
        yield file


def _listed(path: Path, listed: str) -> list[tuple[Path, int]]:
    """The shards that are listed, and their bytes."""
    lines = (line.split(" ", 2) for line in listed.splitlines())
    return [(path.parent / name, int(n_bytes)) for _, n_bytes, name in lines]


def _allow_open(n_files: int, path: str | Path) -> None:
    """Let this process open so many files: HDF5 takes one that it cannot open for missing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if n_files <= soft or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and n_files > hard:
        raise MicrotomeError(
            f"{path}: has more shards than files may be open here ({hard:,}, `ulimit -Hn`); make "
            "`sequences_per_job` larger"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (n_files, hard))
