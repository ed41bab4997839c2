"""Compression of layer files: bytes shuffled, then zstd, in chunks of whole rows.

HDF5's own filters run one at a time, under its lock. Here threads compress chunks side by side,
since numpy and zstd work without the interpreter's lock, and HDF5 writes what they made. It takes a
zstd filter to read such a file; hdf5plugin has it for h5py and xarray.
"""

import math
import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from microtome.errors import MicrotomeError

#: The attribute of a layer file that says how its values are compressed; plain files have none.
COMPRESSION = "compression"
#: Bytes of a chunk before it is compressed, unless a row has more: what HDF5's cache holds.
CHUNK = 1 << 20
#: Of zstd. Higher levels take longer, and leave more of shuffled activations (docs/scaling.md).
LEVEL = 1


def require_filter(path: str | Path, compression: str) -> None:
    """Let HDF5 read and write compressed values.

    Args:
        path: the file.
        compression: none or zstd, as its attribute `COMPRESSION` says.

    Raises:
        MicrotomeError: hdf5plugin is not installed.
    """
    if compression != "none":
        try:
            import hdf5plugin  # noqa: F401  # which registers its filters
        except ImportError:
            raise MicrotomeError(
                f"{path}: compressed ({compression}), for which HDF5 has no filter here; install "
                "it: pip install hdf5plugin"
            ) from None


def chunked(shape: tuple[int, ...], itemsize: int) -> dict[str, Any]:
    """How h5py's `create_dataset` makes a site whose chunks `compress` writes.

    Args:
        shape: (`token`, …).
        itemsize: bytes of a number.
    """
    import hdf5plugin

    rows = max(1, CHUNK // (math.prod(shape[1:]) * itemsize))
    chunks = (min(rows, shape[0]), *shape[1:])
    return {"chunks": chunks, "shuffle": True, **hdf5plugin.Zstd(clevel=LEVEL)}


def compress(plain: Path, path: Path, sites: Iterable[str], threads: int) -> None:
    """Write the values of a plain layer file into a compressed one.

    Args:
        plain: the plain file.
        path: the compressed one, without values and the attribute `layer`.
        sites: what is written.
        threads: how many compress. Beside the chunks that these work at, one waits.
    """
    with (
        h5py.File(plain) as source,
        h5py.File(path, "r+") as file,
        plain.open("rb") as values,
        ThreadPoolExecutor(threads) as pool,
    ):
        file.attrs["layer"] = source.attrs["layer"]
        packed: deque[tuple[h5py.Dataset, int, Future[Any]]] = deque()

        def write() -> None:
            dataset, row, chunk = packed.popleft()
            dataset.id.write_direct_chunk((row, *[0] * (dataset.ndim - 1)), chunk.result())

        for site in sites:
            written, plain_values = file[site], source[site].id
            start, end = plain_values.get_offset(), plain_values.get_storage_size()
            itemsize = plain_values.get_type().get_size()
            size = math.prod(written.chunks) * itemsize
            rows = range(0, len(written), written.chunks[0])
            for row, first in zip(rows, range(0, end, size), strict=True):
                place = (start + first, min(size, end - first))
                chunk = pool.submit(_packed, values.fileno(), *place, size, itemsize)
                packed.append((written, row, chunk))
                if len(packed) > threads:
                    write()
        while packed:
            write()


def _packed(file: int, start: int, n_bytes: int, size: int, itemsize: int) -> Any:
    """A chunk as HDF5's filters would leave it.

    Args:
        file: the descriptor of a file.
        start: where the chunk's values begin there.
        n_bytes: how many bytes they have.
        size: bytes of a chunk; of the last one of a site, those that remain are 0.
        itemsize: bytes of a number.
    """
    import cramjam

    chunk = np.zeros(size, np.uint8)
    os.preadv(file, [chunk[:n_bytes].data], start)
    shuffled = chunk.reshape(-1, itemsize).T.copy()  # all first bytes, then all second ones, …
    return cramjam.zstd.compress(shuffled.data, LEVEL)
