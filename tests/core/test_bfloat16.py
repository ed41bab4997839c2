"""bfloat16 reads as plain h5py reads it, where HDF5 converts it."""

import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import h5py
import hdf5plugin  # noqa: F401  # which registers its filters
import numpy as np
import pytest

import microtome as mt
from microtome.store import bfloat16, compression
from microtome.store.bfloat16 import read_values
from microtome.store.checksums import sha256
from microtome.store.datasets import open_layer
from microtome.store.layers import Section, read_section, write_layers
from microtome.store.stacked import read_layers
from microtome.store.virtual import join

#: Of two shards, how many tokens each has; of `post`, every bfloat16 that there is, in any order.
N_TOKENS = (100, 156)
BITS = np.random.default_rng(0).permutation(1 << 16).astype("<u2").reshape(sum(N_TOKENS), 256)
NUMBERS = (BITS.astype("<u4") << 16).view("<f4")


def shard(path, kind, first, n_tokens, n_keys):
    """A layer file with some of the tokens; write_layers alone would refuse infinities."""
    values = {
        "post": np.zeros((n_tokens, 256), np.float32),
        "pattern": np.full((n_tokens, 2, n_keys), 0.25, np.float32),
    }
    values["pattern"][::3, :, 1:] = np.nan
    columns = {"token_id": np.arange(n_tokens, dtype=np.int32)}
    section = Section(3, np.arange(n_tokens), values)
    write_layers([section], columns, {3: path}, {"model": "m"}, "bfloat16", kind)
    with h5py.File(path, "r+") as file:
        post, bits = file["post"], np.ascontiguousarray(BITS[first : first + n_tokens])
        post.id.write(h5py.h5s.ALL, h5py.h5s.ALL, bits, post.id.get_type())


@pytest.fixture(params=["none", "zstd", "none, shards", "zstd, shards"])
def layer(tmp_path, monkeypatch, request):
    """A file, plain or in chunks of three rows, or one of two shards."""
    monkeypatch.setattr(compression, "CHUNK", 3 * 256 * 2)
    monkeypatch.setattr(bfloat16, "_BLOCK", 1000)
    path = tmp_path / "layer-03.h5"
    kind, _, shards = request.param.partition(", ")
    if not shards:
        shard(path, kind, 0, sum(N_TOKENS), 4)
        return path
    files = [tmp_path / name / path.name for name in ("00000", "00001")]
    for file, first, n_tokens, n_keys in zip(files, (0, 100), N_TOKENS, (4, 2), strict=True):
        shard(file, kind, first, n_tokens, n_keys)
    join(path, {file: sha256(file) for file in files})
    return path


def of_file(path, site):
    with open_layer(path) as section:
        return section[site].values


READERS = {
    "open_layer": of_file,
    "mt.open of a file": lambda path, site: mt.open(path)[site].values,
    "mt.open of a folder": lambda path, site: mt.open(path.parent)[site].sel(layer=3).values,
    "read_layers": lambda path, site: read_layers([path], site).values[0],
    "read_section": lambda path, site: read_section(path).values[site],
}


def assert_same(found, expected):
    assert (found.dtype, found.shape) == (np.float32, expected.shape)
    np.testing.assert_array_equal(found, expected)  # NaN is equal to NaN here, and 0.0 to -0.0
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(found)[numbers], np.signbit(expected)[numbers])


@pytest.mark.parametrize("reader", READERS)
def test_every_number_is_what_hdf5_makes_of_it(layer, reader):
    with h5py.File(layer) as file:
        for site in ("post", "pattern"):
            assert_same(READERS[reader](layer, site), file[site][...])
        assert np.isnan(file["pattern"][...]).any()


@pytest.mark.parametrize("reader", READERS)
def test_hdf5_does_not_convert(layer, reader):
    """Bit for bit, as it would not be if it did: HDF5 has only one NaN of each sign."""
    assert READERS[reader](layer, "post").tobytes() == NUMBERS.tobytes()
    with h5py.File(layer) as file:
        assert file["post"][...].tobytes() != NUMBERS.tobytes()


#: Of tokens and neurons.
KEYS = [
    (slice(None), slice(None)),
    (slice(97, 103), slice(None)),
    (slice(5, 250, 7), slice(200, None, 3)),
    (slice(40, 40), slice(None)),
    ([0, 99, 100, 255], slice(3)),
    (slice(95, 105), [1, 5, 254]),
    ([], slice(None)),
    (17, slice(None)),
    (slice(None), 255),
    (100, 3),
]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_parts_are_what_h5py_reads(layer, key):
    with h5py.File(layer) as file:
        expected = file["post"][key]
        assert_same(read_values(file["post"], key), expected)
    place = {"token": key[0], "d_mlp": key[1]}
    with open_layer(layer) as section:
        assert_same(section["post"].isel(**place).values, expected)
    assert_same(mt.open(layer.parent)["post"].isel(layer=0, **place).values, expected)


def test_vectors_along_two_axes_and_backwards(layer):
    with open_layer(layer) as section:
        found = section["post"].isel(token=[200, 7, 7], d_mlp=[9, 0])
        assert_same(found.values, NUMBERS[np.ix_([200, 7, 7], [9, 0])])
    with open_layer(layer) as section:
        assert_same(section["post"][::-1].values, NUMBERS[::-1])


def test_chunks_that_are_not_asked_for_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(compression, "CHUNK", 3 * 256 * 2)
    path = tmp_path / "layer-03.h5"
    shard(path, "zstd", 0, sum(N_TOKENS), 4)
    with h5py.File(path) as file:
        place = file["post"].id.get_chunk_info_by_coord((6, 0))
    with path.open("rb+") as stream:
        stream.seek(place.byte_offset)
        stream.write(bytes(place.size))
    with open_layer(path) as section:
        assert_same(section["post"][3:6].values, NUMBERS[3:6])
        assert_same(section["post"][[0, 5, 9, 255]].values, NUMBERS[[0, 5, 9, 255]])
        with pytest.raises(OSError):
            section["post"][5:7].load()


def test_memory_is_that_of_the_values(tmp_path):
    n_tokens, width = 1000, 2000
    section = Section(0, np.arange(n_tokens), {"post": np.ones((n_tokens, width), np.float32)})
    columns = {"token_id": np.arange(n_tokens, dtype=np.int32)}
    path = tmp_path / "layer-00.h5"
    write_layers([section], columns, {0: path}, {}, "bfloat16")
    with h5py.File(path) as file:
        post = file["post"]
        for key, n_rows in ((..., n_tokens), (slice(10, 200), 190)):
            tracemalloc.start()
            assert read_values(post, key).shape == (n_rows, width)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert 0 < peak - 4 * n_rows * width < 8 * bfloat16._BLOCK


def test_threads_share_an_open_file(layer):
    with open_layer(layer) as section, ThreadPoolExecutor(4) as pool:
        rows = [slice(start, start + 5) for start in range(0, sum(N_TOKENS), 5)] * 4
        post = section["post"].variable
        found = pool.map(lambda part: post[part].values, rows)
        for part, values in zip(rows, found, strict=True):
            assert values.tobytes() == NUMBERS[part].tobytes()


def test_an_open_file_can_go_to_another_process(layer):
    with open_layer(layer) as section:
        assert pickle.loads(pickle.dumps(section))["post"].values.tobytes() == NUMBERS.tobytes()


def test_other_floats_are_left_to_h5py(tmp_path):
    with h5py.File(tmp_path / "floats.h5", "w") as file:
        for kind in ("<f2", "<f4", ">f4", "<f8"):
            written = file.create_dataset(kind, data=np.array([1.5, -2.0], kind))
            assert not bfloat16.is_bfloat16(written)
            assert read_values(written).dtype == kind
            np.testing.assert_array_equal(read_values(written), [1.5, -2.0])
