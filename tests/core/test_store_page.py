"""docs/store.md: what it says of files holds of those that a run makes, and of those it writes."""

import hashlib
import json
import re
from pathlib import Path

import cramjam
import h5py
import hdf5plugin
import numpy as np
import pytest
import xarray as xr
from workflows import SCALED, Clone

import microtome as mt
from microtome.models.taps import Tap
from microtome.sites import DIMENSIONS
from microtome.store.datasets import open_layer
from microtome.texts.stimuli import Stimulus
from microtome.texts.tokens import token_table

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "store.md").read_text(encoding="utf-8")
#: The attributes of HDF5's dimension scales, and of netCDF's library.
LIBRARYS = r"_NC|_Netcdf4|CLASS|NAME|REFERENCE_LIST|DIMENSION_LIST"


def table(heading):
    """The rows of a section's last table, as text of their cells without marks of code."""
    section = re.search(rf"^#+ {heading}\n(.*?)(?=^#|\Z)", PAGE, flags=re.M | re.S)[1]
    last = section.split("|---|")[-1].split("\n\n")[0]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in last.splitlines()[1:]]
    return [[cell.strip().replace("`", "") for cell in row] for row in cells]


@pytest.fixture(scope="module")
def made(tmp_path_factory, model):
    """A run of two studies: a sweep in two jobs, last tokens alone, an intervention, compressed."""
    clone = Clone(tmp_path_factory.mktemp("made"), model)
    study = {"stimuli": "texts"} | SCALED | {"tables": {"next_tokens": {}}}
    study["statistics"] = SCALED["statistics"] | {"next_tokens": {"n": 2}}
    clone.save_study("hidden_states", study)
    clone.change("stimuli", to={"texts": {"file": "stimuli/texts.yaml", "tokens": "last"}})
    clone.change(
        "studies",
        to={
            "category_selectivity": {
                "models": ["tiny"],
                "statistics": {"cosine_similarities": {"layers": "all"}},
            },
            "hidden_states": {"models": ["tiny"]},
        },
    )
    clone.change("sweep", "layers_per_job", to=2)
    clone.change("store", to={"dtype": "bfloat16", "compression": "zstd"})
    clone.run()
    return clone.folder / "results"


def own(attributes):
    """An object's attributes but for the libraries'."""
    return {name: v for name, v in attributes.items() if not re.match(LIBRARYS, name)}


def type_of(dataset):
    """What the page calls a dataset's type."""
    kind = h5py.check_string_dtype(dataset.dtype)
    return "text" if kind and (kind.encoding, kind.length) == ("utf-8", None) else dataset.dtype


def dimensions_of(dataset):
    return [axis[0].name.removeprefix("/") for axis in dataset.dims]


def test_every_file_that_is_made_has_its_place_on_the_page(made):
    places = [name for row in table("The store") for name in re.findall(r"[\w/]+[\w./-]*", row[0])]
    kinds = {place.split("/")[0] for place in places if "/" in place}
    assert kinds == {p.name for p in made.iterdir()} - {"logs", "benchmarks"}
    assert {p.name for p in (made / "models/tiny").iterdir()} == {
        place.split("/")[2] for place in places if place.startswith("models/MODEL/")
    }
    names = {re.sub(r"\d+", "0", p.name) for p in made.rglob("activations/*/*/*.h5")}
    assert names == {
        re.sub(r"\d+", "0", place.split("/")[-1])
        for place in places
        if place.startswith("activations/") and "/00000/" not in place  # a shard
    }
    assert (made / "statistics/category_selectivity/tiny/rsa.h5").exists()
    for kind, suffixes in ("figures", (".svg", ".png")), ("tables", (".csv", ".txt")):
        assert {file.suffix for file in (made / kind).glob("*/tiny/*")} == set(suffixes)


def filters(dataset):
    """The numbers of a dataset's filters, in order."""
    created = dataset.id.get_create_plist()
    return [created.get_filter(i)[0] for i in range(created.get_nfilters())]


def test_labelled_files_follow_the_conventions(made):
    files = list(made.rglob("*.h5"))
    assert len(files) > 10
    for path in files:
        with h5py.File(path) as file:
            coordinates = file.attrs.get("coordinates", "").split()
            compressed = "compression" in file.attrs
            for name, dataset in file.items():
                assert isinstance(dataset, h5py.Dataset)
                # h5py names a dtype without byte order, as int8 or text, by |.
                if compressed and name in DIMENSIONS:
                    assert filters(dataset) == [2, 32015]
                    assert dataset.chunks == dataset.shape  # a small file
                else:
                    assert (dataset.chunks, filters(dataset)) == (None, [])
                coordinates += dataset.attrs.get("coordinates", "").split()
                if not dataset.is_scale:
                    assert len(dimensions_of(dataset)) == dataset.ndim
                    assert type_of(dataset) == "text" or dataset.dtype.byteorder in "<=|"
                elif dataset.attrs["NAME"] != name.encode():
                    size = len(dataset)
                    assert dataset.dtype == ">f4"
                    assert dataset.attrs["NAME"].decode() == (
                        f"This is a netCDF dimension but not a netCDF variable.{size:10}"
                    )
            assert set(coordinates) <= set(file)


def test_the_manifest_has_the_keys_of_the_page(made):
    found = json.loads((made / "models/tiny/manifest.json").read_text())
    keys = {key for row in table("manifest.json") for key in row[0].split(", ")}
    # It neither sees nor hears, and values are as wide as keys.
    assert found.keys() == keys - {"part", "d_value"}
    assert set(found["weights"]["model.safetensors"]) == {"bytes", "sha256"}
    assert all(tensor.keys() >= {"dtype", "shape"} for tensor in found["tensors"].values())
    assert {key for t in found["tensors"].values() for key in t} <= {
        *("dtype", "shape", "name", "converted")
    }


def test_the_taps_are_lists_as_the_page_says(made):
    found = json.loads((made / "models/tiny/sites.json").read_text())
    assert found.keys() == {"taps", "absent"}
    rows = table("sites.json")
    assert tuple(name for name, *_ in rows) == Tap._fields
    types = {"string": str, "integer": int, "number": float, "boolean": bool}
    for tap in found["taps"].values():
        for value, (_, kind, _) in zip(tap, rows, strict=True):
            assert type(value) is types[kind] if kind in types else value is None
    assert all(isinstance(reason, str) for reason in found["absent"].values())


def test_token_tables_have_the_columns_of_the_page(made, minilm, tmp_path):
    types = {name: kind for name, kind, *_ in table("Token tables")}
    seen = set()
    for name in "words", "texts":
        with h5py.File(made / f"tokens/tiny/{name}.h5") as file:
            assert own(file.attrs).keys() == {"model", "coordinates"}
            columns = set(file) - {"token"}
            assert set(file.attrs["coordinates"].split()) == columns
            for column in columns:
                assert type_of(file[column]) == types[column]
            seen |= columns
    encoder = token_table([Stimulus("A word.")], minilm, masked=True)
    more = {"masked", "special", "target_id"}
    assert all(encoder[column].dtype == types[column] for column in more)
    assert seen | more == set(types)


def test_layer_files_are_what_the_page_says(made):
    attributes = {name for row in table("Activations") for name in row[0].split(", ")}
    for path in made.rglob("activations/*/*/*.h5"):
        with h5py.File(path) as file, h5py.File(made / f"tokens/tiny/{path.parent.name}.h5") as of:
            between = {"compression"} if path.stem.startswith("resid") else set()
            assert own(file.attrs).keys() == attributes - between
            assert between or file.attrs["compression"] == "zstd"
            layer = file.attrs["layer"]
            number = re.search(r"-(\d+)", path.stem)
            assert layer == (int(number[1]) if number else "final")
            resid, partial = path.stem.startswith("resid"), path.parent.name == "texts"
            sites = [name for name in file if "coordinates" in file[name].attrs]
            columns = set(of) - {"token", "row"}
            if partial and not resid:
                columns |= {"length"}
                assert file["length"].dtype == "int32"
            for site in sites:
                assert dimensions_of(file[site])[0] == "token"
                assert set(file[site].attrs["coordinates"].split()) == columns
            named = {name for site in sites for name in dimensions_of(file[site])}
            assert set(file) == {*sites, *columns, *named}
            assert resid or layer != "final" or sites == ["logits"]
            if resid:
                assert sites == ["resid_pre"] and file["resid_pre"].dtype == "float32"
                assert len(file["token"]) == len(of["token"])
            elif partial:
                assert len(file["token"]) == of["row"][:].max() + 1


def test_bfloat16_is_the_float_that_the_page_says(made, tmp_path):
    """Its bits, decompressed as the page says, beside what the store reads."""
    path = made / "activations/tiny/words/layer-01.h5"
    with h5py.File(path) as file:
        kind = file["q"].id.get_type()
        assert isinstance(kind, h5py.h5t.TypeFloatID)
        assert (kind.get_size(), kind.get_order()) == (2, h5py.h5t.ORDER_LE)
        assert kind.get_fields() == (15, 7, 8, 0, 7)
        assert (kind.get_ebias(), kind.get_norm()) == (127, h5py.h5t.NORM_IMPLIED)
        shape, (_, chunk) = file["q"].shape, file["q"].id.read_direct_chunk((0, 0, 0))
    shuffled = np.frombuffer(cramjam.zstd.decompress(chunk), np.uint8)
    bits = shuffled.reshape(2, -1).T.copy().view("<u2")
    with open_layer(path) as section:
        assert section["q"].dtype == np.float32
        values = section["q"].values
    assert np.array_equal((bits.astype("<u4") << 16).view("<f4").reshape(shape), values)


def test_outcomes_and_statistics_are_named(made):
    outcome = mt.open(made / "interventions/hidden_states/tiny/scaled_blocks.h5")
    assert outcome["log_probabilities"].dims == ("layer", "token", "target")
    assert outcome["clean_log_probabilities"].dims == ("token", "target")
    assert outcome["log_probabilities"].dtype == np.float32
    statistic = mt.open(made / "statistics/category_selectivity/tiny/cosine_similarities.h5")
    assert statistic["cosine"].dims == ("layer", "site", "word", "other")
    assert statistic["site"].values.tolist() == ["q", "k", "v"]


def test_true_and_false_are_int8(tmp_path):
    from microtome.store.datasets import write_dataset

    write_dataset(xr.Dataset({"significant": ("neuron", [True, False])}), tmp_path / "tests.h5")
    with h5py.File(tmp_path / "tests.h5") as file:
        assert file["significant"].dtype == np.int8
        assert file["significant"].attrs["dtype"] == "bool"


def test_checksums_are_two_lines(made):
    records = list((made / "checksums").rglob("*.sha256"))
    assert {record.relative_to(made / "checksums").parts[0] for record in records} > {"activations"}
    for record in records:
        first, second = record.read_text().splitlines()
        digest, name = second.split("  ")
        file = made.parent / name
        assert record.relative_to(made / "checksums") == Path(f"{name}.sha256").relative_to(
            "results"
        )
        assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
        assert re.fullmatch(rf"# {file.stat().st_size} bytes, mtime \d+ ns", first)


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_what_another_program_writes_opens(tmp_path, monkeypatch, compressed):
    """The page's own lines, which import h5py and numpy alone."""
    monkeypatch.chdir(tmp_path)
    lines = "".join(re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.M | re.S))
    assert set(re.findall(r"^(?:import|from) (\w+)", lines, flags=re.M)) == {
        *("pathlib", "h5py", "numpy")
    }
    names: dict = {}
    if compressed:
        names["hdf5plugin"] = hdf5plugin
        [instead] = re.findall(r"`(create_dataset\(.*Zstd\(\)\))`", PAGE)
        plain = 'create_dataset("q", data=q)'
        assert plain in lines
        attribute = 'file.attrs["compression"] = "zstd"\n    site'
        lines = lines.replace(plain, instead).replace("site", attribute, 1)
    exec(lines, names)
    with h5py.File("results/activations/mine/words/layer-00.h5") as file:
        assert filters(file["q"]) == ([2, 32015] if compressed else [])
    folder = Path("results/activations/mine/words")
    with open_layer(folder / "layer-00.h5") as section:
        assert section["q"].dims == ("token", "n_heads", "d_head")
        assert section.attrs == {"model": "mine", "layer": 0}
        assert set(section.coords) == {"sequence", "position", "token_id", "text"}
        assert section["text"].values.tolist() == ["The", " cat", "The"]
        np.testing.assert_array_equal(section["q"], names["q"])
    with mt.open(folder) as sections:
        assert sections["q"].dims == ("layer", "token", "n_heads", "d_head")
        np.testing.assert_array_equal(sections["q"].sel(layer=0), names["q"])
    assert (names["layer"], names["dimensions"]) == (0, ["/token", "/n_heads", "/d_head"])
    assert names["texts"].tolist() == ["The", " cat", "The"]
    np.testing.assert_array_equal(names["second_token"], names["q"][1])
