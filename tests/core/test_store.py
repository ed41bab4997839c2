"""The store: what is written is read back by xarray, or is refused."""

import weakref
from itertools import chain

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from microtome.errors import MicrotomeError
from microtome.store.datasets import open_layer, read_dataset, write_dataset
from microtome.store.layers import Section, layer_of, write_layers, write_layers_beside

TABLE = xr.Dataset(
    coords={
        "sequence": ("token", np.array([0, 0, 1, 1, 1, 2], np.int32)),
        "position": ("token", np.array([0, 1, 0, 1, 2, 0], np.int32)),
        "token_id": ("token", np.array([5, 6, 5, 7, 8, 9], np.int32)),
        "text": ("token", np.array(["a", " b", "a", "é", "\n", "字"], object)),
    }
)


def sections(layer=3, poison=np.nan):
    q = np.arange(6 * 2 * 3, dtype=np.float32).reshape(6, 2, 3)
    post = -np.arange(6 * 4, dtype=np.float32).reshape(6, 4)
    if not np.isnan(poison):
        post[5, 1] = poison
    for rows in ([0, 1, 5], [2, 3, 4]):
        yield Section(layer, np.array(rows), {"q": q[rows], "post": post[rows]})


def written(tmp_path):
    path = tmp_path / "layer-03.h5"
    write_layers(sections(), TABLE.coords, {3: path}, {"model": "m", "revision": "r"})
    return path


def test_a_layer_file_is_a_labelled_dataset(tmp_path):
    with xr.open_dataset(written(tmp_path), engine="h5netcdf") as dataset:
        assert dataset["q"].dims == ("token", "n_heads", "d_head")
        assert dataset["post"].dims == ("token", "d_mlp")
        assert set(dataset.coords) == {"sequence", "position", "token_id", "text"}
        assert set(dataset.data_vars) == {"q", "post"}
        assert dataset.attrs == {"model": "m", "revision": "r", "layer": 3}
        np.testing.assert_array_equal(
            dataset["q"].values, np.arange(36, dtype=np.float32).reshape(6, 2, 3)
        )
        np.testing.assert_array_equal(dataset["post"].values[:, 1], [-1, -5, -9, -13, -17, -21])
        assert list(dataset["text"].values) == ["a", " b", "a", "é", "\n", "字"]


def test_values_lie_in_one_piece(tmp_path):
    with h5py.File(written(tmp_path)) as file:
        assert file["q"].chunks is None
        assert file["q"].compression is None
        start, size = file["q"].id.get_offset(), file["q"].id.get_storage_size()
        assert file["q"].dims[1][0].name == "/n_heads"
    values = (tmp_path / "layer-03.h5").read_bytes()[start : start + size]
    assert values == np.arange(36, dtype=np.float32).tobytes()


def test_same_input_same_bytes(tmp_path):
    (tmp_path / "other").mkdir()
    first, second = written(tmp_path), written(tmp_path / "other")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_smaller_dtype_of_the_store_reads_as_numbers(tmp_path, dtype):
    values = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    values[0, :2] = 1 + 2**-8, 1 + 3 * 2**-8  # halfway between two of bfloat16: to the even one
    path = tmp_path / "layer-00.h5"
    rows = np.arange(6)
    write_layers(
        [Section(0, rows[half], {"post": values[half]}) for half in (rows < 3, rows >= 3)],
        TABLE.coords,
        {0: path},
        {},
        dtype,
    )
    rounded = torch.from_numpy(values).to(getattr(torch, dtype)).float().numpy()
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        assert dataset["post"].dims == ("token", "d_mlp")
        np.testing.assert_array_equal(dataset["post"].values, rounded)
    with h5py.File(path) as file:
        assert file["post"].id.get_storage_size() == 6 * 4 * 2


def test_what_float16_cannot_hold_is_refused(tmp_path):
    section = Section(2, np.arange(6), {"post": np.full((6, 4), 7e4, np.float32)})
    message = "layer 2, site post: activations beyond 65504.*set `dtype` in the config's `store`"
    with pytest.raises(MicrotomeError, match=message):
        write_layers([section], TABLE.coords, {2: tmp_path / "layer-02.h5"}, {}, "float16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("poison", [np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_layer_and_site(tmp_path, poison):
    with pytest.raises(MicrotomeError, match="layer 3, site post: NaN or infinite"):
        write_layers(sections(poison=poison), TABLE.coords, {3: tmp_path / "layer-03.h5"}, {})
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def interrupted():
        yield from list(sections())[:1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_layers(interrupted(), TABLE.coords, {3: tmp_path / "layer-03.h5"}, {})
    assert list(tmp_path.iterdir()) == []


def test_an_incomplete_layer_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="3 rows were never written"):
        write_layers(list(sections())[:1], TABLE, {3: tmp_path / "layer-03.h5"}, {})
    assert list(tmp_path.iterdir()) == []


def test_writing_beside_gives_the_same_bytes(tmp_path):
    (tmp_path / "other").mkdir()
    paths = {layer: tmp_path / "other" / f"layer-{layer:02d}.h5" for layer in (3, 4, 5)}
    many = (section for layer in paths for section in sections(layer))
    write_layers_beside(many, TABLE.coords, paths, {"model": "m", "revision": "r"})
    assert paths[3].read_bytes() == written(tmp_path).read_bytes()
    assert sorted(p.name for p in (tmp_path / "other").iterdir()) == [
        p.name for p in paths.values()
    ]


def test_writing_beside_holds_one_section_while_the_next_is_made(tmp_path):
    made: list[weakref.ref] = []
    alive = []

    def counted(section):
        alive.append(sum(earlier() is not None for earlier in made))
        made.append(weakref.ref(section))
        return section

    paths = {layer: tmp_path / f"layer-{layer:02d}.h5" for layer in (3, 4, 5)}
    many = map(counted, chain.from_iterable(map(sections, paths)))
    write_layers_beside(many, TABLE.coords, paths, {})
    assert len(alive) == 6
    assert max(alive) <= 1


def test_writing_beside_ends_when_the_sections_fail(tmp_path):
    def failing():
        yield from sections()
        yield next(sections(4))
        raise KeyboardInterrupt

    paths = {layer: tmp_path / f"layer-{layer:02d}.h5" for layer in (3, 4)}
    with pytest.raises(KeyboardInterrupt):
        write_layers_beside(failing(), TABLE.coords, paths, {})
    assert [p.name for p in tmp_path.iterdir()] == ["layer-03.h5"]


def test_writing_beside_ends_when_the_writer_fails(tmp_path):
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield next(sections(3, poison=np.inf))

    with pytest.raises(MicrotomeError, match="NaN or infinite"):
        write_layers_beside(endless(), TABLE.coords, {3: tmp_path / "layer-03.h5"}, {})
    assert len(asked) < 10
    assert list(tmp_path.iterdir()) == []


def test_a_finished_file_survives_a_failed_rewrite(tmp_path):
    path = written(tmp_path)
    before = path.read_bytes()
    with pytest.raises(MicrotomeError):
        write_layers(sections(poison=np.inf), TABLE.coords, {3: path}, {})
    assert path.read_bytes() == before


@pytest.mark.parametrize("read", [read_dataset, lambda path: open_layer(path).__enter__()])
def test_missing_and_cut_files_are_named(tmp_path, read):
    with pytest.raises(MicrotomeError, match=r"layer-09\.h5: missing"):
        read(tmp_path / "layer-09.h5")
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(MicrotomeError, match=r"layer-03\.h5: damaged"):
        read(path)


def test_layer_of():
    assert layer_of("results/x/layer-06.h5") == 6
    assert layer_of("layer-117.h5") == 117


seeded = settings(derandomize=True, deadline=None, max_examples=40)
#: Any text that HDF5 can hold: no NUL, no half a character.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


def float32s(shape):
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
    return hnp.arrays(np.float32, shape, elements=finite)


@seeded
@given(data=st.data(), n_tokens=st.integers(1, 9), beside=st.booleans())
def test_activations_come_back_bit_for_bit(tmp_path_factory, data, n_tokens, beside):
    """Whatever their shapes, and however the rows are dealt out to batches."""
    heads = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 4)))
    shapes = {"q": heads, "post": (data.draw(st.integers(1, 5)),), "resid_pre": (3,)}
    layers = data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True))
    batch = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n_tokens, max_size=n_tokens)))
    columns = {
        "sequence": np.zeros(n_tokens, np.int32),
        "position": np.arange(n_tokens, dtype=np.int32),
        "token_id": data.draw(hnp.arrays(np.int32, n_tokens)),
        "text": np.array(data.draw(st.lists(TEXTS, min_size=n_tokens, max_size=n_tokens)), object),
    }
    values = {
        layer: {site: data.draw(float32s((n_tokens, *shape))) for site, shape in shapes.items()}
        for layer in layers
    }
    sections = (
        Section(layer, rows, {site: array[rows] for site, array in values[layer].items()})
        for layer in layers
        for rows in (np.flatnonzero(batch == number) for number in np.unique(batch))
    )
    folder = tmp_path_factory.mktemp("round")
    paths = {layer: folder / f"layer-{layer:02d}.h5" for layer in layers}
    (write_layers_beside if beside else write_layers)(sections, columns, paths, {"model": "é"})
    for layer, path in paths.items():
        with open_layer(path) as section:
            for site, array in values[layer].items():
                back = section[site].values
                assert back.dtype == np.float32
                assert (back.shape, back.tobytes()) == (array.shape, array.tobytes())
            for name, column in columns.items():
                assert section[name].values.tolist() == column.tolist()
            assert section.attrs == {"model": "é", "layer": layer}


@seeded
@given(
    values=hnp.arrays(
        st.sampled_from([np.float64, np.float32, np.int32, np.int8]),
        st.tuples(st.integers(1, 4), st.integers(1, 5)),
    ),
    names=st.lists(TEXTS),
)
def test_datasets_come_back_as_they_went(tmp_path_factory, values, names):
    dataset = xr.Dataset(
        {"x": (("a", "b"), values)}, {"name": ("n", np.array(names, object))}, {"seed": 1}
    )
    path = tmp_path_factory.mktemp("round") / "trip.h5"
    write_dataset(dataset, path)
    back = read_dataset(path)
    assert (back["x"].dtype, back["x"].values.tobytes()) == (values.dtype, values.tobytes())
    assert list(back["name"].values) == names
    assert back.attrs == {"seed": 1}
