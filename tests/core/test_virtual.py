"""Virtual files: what they read as, and what is refused where a shard is not whole."""

import resource
import time

import h5py
import numpy as np
import pytest
import xarray as xr

import microtome as mt
from microtome.errors import MicrotomeError
from microtome.store.checksums import sha256
from microtome.store.datasets import open_layer, read_dataset
from microtome.store.layers import Section, read_columns, write_layers
from microtome.store.stacked import read_layers
from microtome.store.virtual import bytes_of, join, shards_of
from microtome.texts.lengths import read_lengths

#: Of three shards, how many texts each has and how long they are.
SHARDS = [(2, 3), (1, 4), (3, 1)]


@pytest.fixture
def layer(tmp_path):
    """The file of layer 2, beside that of layer 1, of three shards."""
    random = np.random.default_rng(0)
    made, first = {1: {}, 2: {}}, 0
    for number, (n_texts, length) in enumerate(SHARDS):
        n = n_texts * length
        columns = {
            "sequence": np.repeat(np.arange(first, first + n_texts), length).astype(np.int32),
            "token_id": random.integers(0, 9, n).astype(np.int32),
            "text": np.array([f"é{number}.{i}" for i in range(n)], object),
        }
        shapes = {"q": (n, 2, 3), "pattern": (n, 2, length)}
        for of_layer in made:
            file = tmp_path / f"{number:05d}" / f"layer-{of_layer:02d}.h5"
            values = {site: random.random(shape, np.float32) for site, shape in shapes.items()}
            section = Section(of_layer, np.arange(n), values)
            write_layers([section], columns, {of_layer: file}, {"model": "m"})
            made[of_layer][file] = sha256(file)
        first += n_texts
    for of_layer, shards in made.items():
        join(tmp_path / f"layer-{of_layer:02d}.h5", shards)
    return tmp_path / "layer-02.h5"


def test_the_tokens_of_all_shards_are_there(layer):
    with open_layer(layer) as opened:
        assert opened.attrs == {"model": "m", "layer": 2}
        assert opened.sizes == {"token": 13, "n_heads": 2, "d_head": 3, "key": 4}
        assert opened["sequence"].values.tolist() == [0] * 3 + [1] * 3 + [2] * 4 + [3, 4, 5]
        assert opened["text"].values[[0, 6, 12]].tolist() == ["é0.0", "é1.0", "é2.2"]
        absent = np.isnan(opened["pattern"]).any("n_heads")
        n_keys = (~absent).sum("key").values
        assert n_keys.tolist() == [3] * 6 + [4] * 4 + [1] * 3


def test_plain_xarray_reads_a_virtual_file(layer):
    listed = [f"{sha256(f)} {f.stat().st_size} {f.parent.name}/{f.name}" for f in shards_of(layer)]
    assert len(listed) == 3
    with xr.open_dataset(layer, engine="h5netcdf") as plain, open_layer(layer) as opened:
        assert plain.attrs["shards"] == "\n".join(listed)
        assert plain.drop_attrs().identical(opened.drop_attrs())
        parts = [xr.open_dataset(file, engine="h5netcdf") for file in shards_of(layer)]
        for name in ("q", "token_id"):
            np.testing.assert_array_equal(plain[name], np.concatenate([p[name] for p in parts]))


READERS = {
    "mt.open of a file": mt.open,
    "mt.open of a folder": lambda layer: mt.open(layer.parent),
    "open_layer": lambda layer: open_layer(layer).__enter__(),
    "read_dataset": read_dataset,
    "read_layers": lambda layer: read_layers([layer.with_name("layer-01.h5"), layer], "q"),
    "read_columns": read_columns,
    "lengths": read_lengths,
}


@pytest.mark.parametrize("reader", READERS)
def test_a_shard_that_is_missing_or_cut_is_refused_in_a_line(layer, reader):
    shard = shards_of(layer)[1]
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(MicrotomeError) as caught:
        READERS[reader](layer)
    assert str(caught.value) == f"{shard}: missing; make it: snakemake {layer}"
    shard.write_bytes(content[:-1])
    with pytest.raises(MicrotomeError) as caught:
        READERS[reader](layer)
    assert str(caught.value) == (
        f"{shard}: damaged ({len(content) - 1:,} bytes of {len(content):,}); delete it and make it "
        f"again: snakemake {layer}"
    )


def test_a_folder_is_read_though_a_shard_is_lost_meanwhile(layer):
    """The values of a shard that is gone are no fill values."""
    opened = mt.open(layer.parent)
    shards_of(layer)[0].unlink()
    assert np.isfinite(opened["q"].sel(layer=1)).all()
    with pytest.raises(MicrotomeError, match="missing; make it"):
        opened["q"].sel(layer=2).load()


def test_more_shards_than_files_may_be_open_are_refused(layer, monkeypatch):
    """HDF5 takes a file that it cannot open for missing, and says nothing."""
    allowed = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: allowed.append(limits))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 1000))
    mt.open(layer).close()
    assert allowed == [(131, 1000)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 100))
    with pytest.raises(MicrotomeError, match=r"layer-02\.h5: has more shards than files may be"):
        mt.open(layer)


def test_shards_of_different_sweeps_are_not_joined(layer):
    shards = shards_of(layer)
    with h5py.File(shards[2], "r+") as file:
        file.attrs["model"] = "another"
    with pytest.raises(MicrotomeError, match=r"00002/layer-02\.h5: its attributes are not"):
        join(layer, dict.fromkeys(shards, ""))


def test_flags_that_no_token_of_a_shard_has_are_zero(tmp_path):
    for number, special in enumerate([{}, {"special": np.ones(2, np.int8)}]):
        table = {"token_id": ("token", np.arange(2, dtype=np.int32))}
        table |= {name: ("token", values) for name, values in special.items()}
        xr.Dataset(coords=table).to_netcdf(tmp_path / f"{number}.h5", engine="h5netcdf")
    join(tmp_path / "all.h5", dict.fromkeys(sorted(tmp_path.glob("?.h5")), ""))
    assert read_dataset(tmp_path / "all.h5")["special"].values.tolist() == [0, 0, 1, 1]


def test_a_virtual_file_has_the_same_bytes_at_any_time(layer):
    before = layer.read_bytes()
    time.sleep(1.1)  # HDF5 keeps times in seconds
    join(layer, {file: sha256(file) for file in shards_of(layer)})
    assert layer.read_bytes() == before


def test_the_bytes_of_a_virtual_file_are_those_of_its_shards_too(layer):
    files = [layer, *(layer.parent / f"{number:05d}" / layer.name for number in range(3))]
    assert bytes_of(layer) == sum(len(file.read_bytes()) for file in files)
    assert bytes_of(files[1]) == files[1].stat().st_size
