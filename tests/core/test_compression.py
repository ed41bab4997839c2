"""Compressed layer files have the values of plain ones, for every reader that has the filter."""

import sys
import weakref

import cramjam
import h5py
import numpy as np
import pytest
import torch
import xarray as xr

from microtome.errors import MicrotomeError
from microtome.sites import KEYED_SITES
from microtome.store import compression
from microtome.store.checksums import sha256
from microtome.store.datasets import open_layer, read_dataset
from microtome.store.layers import Section, read_columns, write_layers
from microtome.store.stacked import open_layers, read_layers
from microtome.store.virtual import join

N_TOKENS = 23
DTYPES = ("float32", "bfloat16", "float16")


def values(seed=0):
    """Sites of one layer; of pattern, keys that a token does not reach are absent."""
    random = np.random.default_rng(seed)
    q = random.normal(size=(N_TOKENS, 2, 3)).astype(np.float32)
    post = random.normal(size=(N_TOKENS, 40)).astype(np.float32)
    post[3, :4] = 0.0, -0.0, 2.0**-130, -65504.0
    pattern = random.random((N_TOKENS, 2, 5)).astype(np.float32)
    reached = np.arange(N_TOKENS) % 5
    pattern[np.arange(5) > reached[:, None, None] + np.zeros((1, 2, 1))] = np.nan
    return {"q": q, "post": post, "pattern": pattern}


def write(folder, dtype="float32", compression="zstd", threads=1, layers=(3,), n_tokens=N_TOKENS):
    """Write layers in batches that no chunk keeps to; the files."""
    columns = {
        "sequence": np.zeros(n_tokens, np.int32),
        "position": np.arange(n_tokens, dtype=np.int32),
        "token_id": np.arange(n_tokens, dtype=np.int32),
        "text": np.array([f" é{i}" for i in range(n_tokens)], object),
    }
    batches = [np.arange(n_tokens)[i::3] for i in range(3)]
    sections = (
        Section(layer, rows, {site: array[rows] for site, array in values(layer).items()})
        for layer in layers
        for rows in batches
    )
    folder.mkdir(exist_ok=True)
    paths = {layer: folder / f"layer-{layer:02d}.h5" for layer in layers}
    write_layers(*(sections, columns, paths, {"model": "m"}, dtype, compression), threads=threads)
    return list(paths.values())


@pytest.fixture(params=[None, 400], ids=["one chunk", "chunks"])
def chunks(request, monkeypatch):
    """Chunks of all rows, or of as few as make several and do not come out even."""
    if request.param:
        monkeypatch.setattr(compression, "CHUNK", request.param)


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_reads_as_if_it_were_plain(tmp_path, chunks, dtype):
    [plain] = write(tmp_path / "plain", dtype, "none")
    [compressed] = write(tmp_path / "compressed", dtype)
    expected, found = read_dataset(plain), read_dataset(compressed)
    assert found.identical(expected)
    assert {site: array.dtype for site, array in found.items()} == {
        site: array.dtype for site, array in expected.items()
    }
    for site in found:
        assert np.array_equal(np.signbit(found[site]), np.signbit(expected[site]))
    assert np.isnan(found["pattern"]).sum() > 0
    if dtype == "float32":
        for site, array in values(3).items():
            np.testing.assert_array_equal(found[site], array)
    with open_layer(compressed) as section:  # lazily, and some rows only
        np.testing.assert_array_equal(section["post"][[1, 9, 22]], expected["post"][[1, 9, 22]])
    assert read_columns(compressed).keys() == read_columns(plain).keys()


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_xarray_and_h5py_read_it_with_the_filter(tmp_path, chunks, dtype):
    import hdf5plugin  # noqa: F401

    [path] = write(tmp_path, dtype)
    [plain] = write(tmp_path / "plain", dtype, "none")
    with xr.open_dataset(path, engine="h5netcdf") as found, xr.open_dataset(plain) as expected:
        xr.testing.assert_equal(found, expected)
        assert found.attrs == {"model": "m", "layer": 3, "compression": "zstd"}
    with h5py.File(path) as file, h5py.File(plain) as expected:
        for site in values():
            assert file[site].id.get_type() == expected[site].id.get_type()
            np.testing.assert_array_equal(file[site][:], expected[site][:])
            attributes = [name for name in file[site].attrs if name in ("_FillValue", "comment")]
            assert len(attributes) == (2 if site in KEYED_SITES else 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks_are_whole_rows_shuffled_and_compressed(tmp_path, monkeypatch, dtype):
    """Undone by hand: a frame of zstd that knows its length, with all first bytes, all second, …"""
    itemsize = 4 if dtype == "float32" else 2
    monkeypatch.setattr(compression, "CHUNK", 5 * 40 * itemsize + 7)
    [path] = write(tmp_path, dtype)
    with h5py.File(path) as file:
        post = file["post"]
        assert post.chunks == (5, 40)
        filters = post.id.get_create_plist()
        found = [filters.get_filter(i)[0] for i in range(filters.get_nfilters())]
        assert found == [h5py.h5z.FILTER_SHUFFLE, 32015]
        rows = []
        for number in range(post.id.get_num_chunks()):
            _, chunk = post.id.read_direct_chunk((5 * number, 0))
            shuffled = np.frombuffer(cramjam.zstd.decompress(chunk), np.uint8)
            rows.append(shuffled.reshape(itemsize, -1).T.copy().view(f"<u{itemsize}"))
    assert len(rows) == 5
    found = np.concatenate(rows).reshape(25, 40)
    rounded = torch.from_numpy(values(3)["post"]).to(getattr(torch, dtype))
    expected = rounded.view(getattr(torch, f"uint{8 * itemsize}")).numpy()
    np.testing.assert_array_equal(found[:N_TOKENS], expected)
    assert not found[N_TOKENS:].any()


def test_a_chunk_fits_hdf5_s_cache_unless_a_row_does_not():
    rows = {site: compression.chunked(shape, 2)["chunks"] for site, shape in SHAPES.items()}
    assert rows == {"resid_post": (910, 576), "post": (100, 1536), "logits": (1, 600_000)}


SHAPES = {"resid_post": (10**6, 576), "post": (100, 1536), "logits": (10, 600_000)}


def test_same_input_same_bytes_with_any_number_of_threads(tmp_path, chunks):
    files = [write(tmp_path / str(n), "bfloat16", threads=n)[0] for n in (1, 1, 2, 5)]
    assert len({file.read_bytes() for file in files}) == 1


@pytest.mark.parametrize("threads", [1, 3])
def test_few_chunks_are_held_however_many_there_are(tmp_path, monkeypatch, threads):
    monkeypatch.setattr(compression, "CHUNK", 1)  # a row each
    packed, made, alive = compression._packed, [], []

    def counted(*arguments):
        chunk = np.frombuffer(bytes(packed(*arguments)), np.uint8)
        made.append(weakref.ref(chunk))
        alive.append(sum(chunk() is not None for chunk in made))
        return chunk

    monkeypatch.setattr(compression, "_packed", counted)
    [path] = write(tmp_path, threads=threads)
    assert len(made) == 3 * N_TOKENS
    assert max(alive) <= threads + 2  # and the one that is being written
    np.testing.assert_array_equal(read_dataset(path)["post"], values(3)["post"])


def test_a_folder_reads_as_if_it_were_plain(tmp_path, chunks):
    files = write(tmp_path / "compressed", layers=(3, 4))
    plain = write(tmp_path / "plain", layers=(3, 4), compression="none")
    with open_layers(tmp_path / "compressed") as found, open_layers(tmp_path / "plain") as expected:
        assert found.identical(expected)
        np.testing.assert_array_equal(found["q"].sel(layer=4)[7], values(4)["q"][7])
    assert read_layers(files, "post").identical(read_layers(plain, "post"))


def test_shards_read_as_one(tmp_path, chunks):
    """The same layer twice, as if each were a shard."""
    shards = [write(tmp_path / name)[0] for name in ("00000", "00001")]
    whole = tmp_path / "layer-03.h5"
    join(whole, {shard: sha256(shard) for shard in shards})
    with open_layer(whole) as section:
        for site, array in values(3).items():
            np.testing.assert_array_equal(section[site], np.concatenate([array, array]))
        assert section.attrs == {"model": "m", "layer": 3}
    assert read_layers([whole], "q").shape == (1, 2 * N_TOKENS, 2, 3)
    with xr.open_dataset(whole, engine="h5netcdf") as plain_xarray:
        np.testing.assert_array_equal(plain_xarray["q"][N_TOKENS:], values(3)["q"])


def test_without_the_filter_there_is_one_line(tmp_path, monkeypatch):
    [path] = write(tmp_path / "compressed")
    [plain] = write(tmp_path / "plain", compression="none")
    whole = tmp_path / "whole.h5"
    join(whole, {path: sha256(path)})
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    says = (
        r"\.h5: compressed \(zstd\), for which HDF5 has no filter here; .*pip install hdf5plugin$"
    )
    readers = (
        lambda: read_dataset(path),
        lambda: read_dataset(whole),
        lambda: open_layers(path.parent),
        lambda: read_layers([path], "q"),
        lambda: write(tmp_path / "more"),
    )
    for read in readers:
        with pytest.raises(MicrotomeError, match=says):
            read()
    assert list((tmp_path / "more").iterdir()) == []
    read_dataset(plain)


def test_nothing_is_left_beside_the_files(tmp_path, monkeypatch):
    assert [file.name for file in write(tmp_path)] == [p.name for p in tmp_path.iterdir()]
    [path] = tmp_path.iterdir()
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compression, "_packed", full)
    with pytest.raises(OSError):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_it_is_smaller(tmp_path):
    """Exponents of activations are few; the lower bytes of float32 are noise."""
    sizes = {}
    for dtype in DTYPES:
        values = np.random.default_rng(0).normal(size=(512, 576)).astype(np.float32)
        columns = {"token_id": np.arange(512, dtype=np.int32)}
        for kind in ("none", "zstd"):
            path = tmp_path / f"{dtype}-{kind}.h5"
            section = Section(0, np.arange(512), {"resid_post": values})
            write_layers([section], columns, {0: path}, {}, dtype, kind)
            sizes[dtype, kind] = path.stat().st_size
    assert sizes["float32", "zstd"] < 0.95 * sizes["float32", "none"]
    assert sizes["bfloat16", "zstd"] < 0.8 * sizes["bfloat16", "none"]
