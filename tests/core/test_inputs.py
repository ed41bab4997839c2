"""What a study's functions are called with, against the arrays that the files were made from."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from conftest import Files, describe
from hooked import taps_at
from transformers import AutoModelForCausalLM, AutoTokenizer

from microtome.statistics.streamed import Summed
from microtome.store.datasets import write_dataset
from microtome.store.layers import Section, write_layers
from microtome.workflow.inputs import compute, merged
from microtome.workflow.load import load

N_TOKENS, LAYERS = 5, (0, 2, 3)
WIDTHS = {"q": (2, 3), "k": (1, 3), "resid_post": (4,)}
IDS = [3, 1, 4, 1, 5]
TOKENS = xr.Dataset(
    coords={
        "sequence": ("token", [0, 0, 0, 1, 1]),
        "position": ("token", [0, 1, 2, 0, 1]),
        "token_id": ("token", IDS),
        "text": ("token", np.array([f"t{number}" for number in IDS], dtype=object)),
    }
)


def values(layer, site):
    """Random activations, the same at every call."""
    random = np.random.default_rng([layer, len(site), ord(site[0])])
    return random.normal(size=(N_TOKENS, *WIDTHS[site])).astype(np.float32)


FINAL = np.arange(N_TOKENS * 4, dtype=np.float32).reshape(N_TOKENS, 4)


@pytest.fixture
def files(tmp_path):
    """Layer files, the file after the last block and the token table."""
    paths = {layer: tmp_path / f"layer-{layer:02d}.h5" for layer in LAYERS}
    rows = np.arange(N_TOKENS)
    made = (Section(layer, rows, {s: values(layer, s) for s in WIDTHS}) for layer in LAYERS)
    write_layers(made, TOKENS.coords, paths, {})
    final = Section(None, rows, {"ln_final": FINAL})
    write_layers([final], TOKENS.coords, {None: tmp_path / "final.h5"}, {})
    write_dataset(TOKENS, tmp_path / "tokens.h5")
    return {
        "layers": list(map(str, paths.values())),
        "final": [str(tmp_path / "final.h5")],
        "tokens": str(tmp_path / "tokens.h5"),
    }


def job(files, **params):
    """A job as Snakemake hands it to a script."""
    given = {"datasets": []} | files
    return SimpleNamespace(
        input=Files(given),
        params=SimpleNamespace(**{"options": {}, "reads": [], "sites": [], "threads": 1} | params),
        threads=1,
    )


def test_a_statistic_of_a_section_is_made_of_every_layer(files):
    seen = []

    def means(section, *, sites, factor):
        seen.append((list(section.data_vars), section.attrs["layer"], sites))
        found = [section[site].mean() * factor for site in sites]
        return xr.Dataset({"mean": ("site", found)}, {"site": list(sites)}, {"unit": "none"})

    sites = ["k", "resid_post"]  # in the config's order, without what else the files hold
    options = {"sites": sites, "factor": 2.0}
    found = compute(means, job(files, options=options, sites=sites))
    assert seen == [(sites, layer, ("k", "resid_post")) for layer in LAYERS]
    assert found["mean"].dims == ("layer", "site")
    assert list(found["layer"].values) == list(LAYERS)
    assert found.attrs["unit"] == "none"
    expected = [[2 * values(layer, site).mean() for site in sites] for layer in LAYERS]
    np.testing.assert_allclose(found["mean"], expected, rtol=1e-5)


def test_a_statistic_with_an_option_layer_is_made_of_that_one(files):
    def sums(section, *, site, layer):
        assert layer == section.attrs["layer"]
        return xr.Dataset({"sum": section[site].sum()})

    one = files | {"layers": files["layers"][1:2]}
    found = compute(sums, job(one, options={"site": "q", "layer": 2}, sites=["q"]))
    assert found["sum"].item() == pytest.approx(values(2, "q").sum(), rel=1e-5)
    assert not found.attrs
    assert "layer" not in found.dims


def test_a_section_has_the_columns_of_its_tokens(files):
    def columns(section, *, site):
        assert set(section.coords) == set(TOKENS.coords)
        return xr.Dataset({"position": section["position"].reset_coords(drop=True)})

    found = compute(columns, job(files, options={"site": "q"}, sites=["q"]))
    np.testing.assert_array_equal(found["position"], [TOKENS["position"]] * len(LAYERS))


def test_a_site_is_stacked_over_all_layers(files):
    def kept(q, ln_final):
        assert q.dims == ("layer", "token", "n_heads", "d_head")
        assert list(q["layer"].values) == list(LAYERS)
        assert ln_final.dims == ("token", "d_model")
        assert "layer" not in ln_final.coords
        for array in (q, ln_final):
            np.testing.assert_array_equal(array["token_id"], IDS)
        return xr.Dataset({"q": q.drop_vars("layer"), "last": ln_final})

    found = compute(kept, job(files))
    np.testing.assert_array_equal(found["q"], [values(layer, "q") for layer in LAYERS])
    np.testing.assert_array_equal(found["last"], FINAL)


def test_the_token_table_and_statistics_are_given_by_the_parameters_names(files, tmp_path):
    """In whatever order: the job names the statistics that it read, as their files stand."""
    read = [tmp_path / "first.h5", tmp_path / "second.h5"]
    for path, value in zip(read, (1.0, 2.0), strict=True):
        write_dataset(xr.Dataset({"x": ("n", [value])}), path)

    def both(tokens, b, a, *, limits):
        xr.testing.assert_identical(tokens.coords.to_dataset(), TOKENS)
        return xr.Dataset({"found": ("n", [a["x"].item(), b["x"].item(), *limits])})

    options = {"limits": [0.5, 0.6]}
    found = compute(both, job(files | {"datasets": read}, reads=["a", "b"], options=options))
    assert found["found"].values.tolist() == [1.0, 2.0, 0.5, 0.6]


def test_a_list_of_the_config_is_a_tuple(files):
    def kinds(*, sites, n, scale):
        return xr.Dataset(attrs={"kinds": [type(x).__name__ for x in (sites, n, scale)]})

    found = compute(kinds, job(files, options={"sites": ["q"], "n": 3, "scale": "cosine"}))
    assert found.attrs["kinds"] == ["tuple", "int", "str"]


def test_an_option_that_is_not_given_has_its_default(files):
    def n(*, n=7, m=1):
        return xr.Dataset(attrs={"n": n, "m": m})

    assert compute(n, job(files, options={"m": 2})).attrs == {"n": 7, "m": 2}


@pytest.fixture
def model(checkpoints, gpt2_tokenizer, tmp_path):
    """A checkpoint's files as a job reads them, with those of a token table."""
    table = tmp_path / "table.h5"
    write_dataset(TOKENS, table)
    checkpoint = checkpoints["gpt2"]
    described = describe(checkpoint)
    return {"checkpoint": str(checkpoint), "manifest": str(described), "tokens": str(table)}


def taps(model):
    return {site: list(tap) for site, tap in taps_at(Path(model["checkpoint"])).items()}


def test_the_models_weights_are_given_as_they_are_stored(model):
    def weights(stored, *, layer):
        return xr.Dataset({"w": (("in", "out"), stored.weight("W1", layer))})

    found = compute(weights, job(model, options={"layer": 2}, taps=taps(model)))
    plain = AutoModelForCausalLM.from_pretrained(model["checkpoint"])
    expected = plain.transformer.h[2].mlp.c_fc.weight.detach().numpy()
    np.testing.assert_array_equal(found["w"], expected)


def test_the_tokenizer_is_the_models_own(gpt2_tokenizer, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(tmp_path / "checkpoint")

    def encoded(tokenizer):
        return xr.Dataset({"ids": ("token", tokenizer.encode("An insect"))})

    found = compute(encoded, job({"checkpoint": str(tmp_path / "checkpoint")}))
    expected = AutoTokenizer.from_pretrained(gpt2_tokenizer).encode("An insect")
    assert found["ids"].values.tolist() == expected


class Sums(Summed):
    """A statistic that knows the token table and a dataset, and which row came first."""

    def __init__(self, tokens, scale, sites):
        super().__init__(sites)
        self.tokens, self.scale = tokens, scale

    def measured(self, section):
        for site, values in section.values.items():
            yield site, {"sum": values.astype(float).sum(0), "first": values[0].astype(float)}

    def joined(self, first, second):
        return {"sum": first["sum"] + second["sum"], "first": first["first"]}

    def finish(self):
        sums = {site: [own[site]["sum"] for own in self.kept.values()] for site in self.sites}
        n = self.tokens.sizes["token"]
        found = {s: (("layer", "d_model"), np.array(v) * self.scale / n) for s, v in sums.items()}
        first = [own["resid_post"]["first"] for own in self.kept.values()]
        found["first"] = ("layer", "d_model"), first
        return xr.Dataset(found, {"layer": list(self.kept)})


def test_shards_of_a_streamed_statistic_are_merged(files, tmp_path):
    """What a merging job gives the function, and that it takes shards in order, one by one."""

    def means(tokens, lens, scale, *, sites):
        assert lens is None
        return Sums(tokens, scale["x"].item(), sites)

    write_dataset(xr.Dataset({"x": 2.0}), tmp_path / "scale.h5")
    for shard, rows in enumerate((slice(0, 3), slice(3, 5))):
        own = Sums(None, None, ["resid_post"])
        for layer in LAYERS:
            own.add(Section(layer, np.arange(5)[rows], {s: values(layer, s)[rows] for s in WIDTHS}))
        write_dataset(own.state(), tmp_path / f"{shard:05d}.h5")
    states = [str(tmp_path / f"{shard:05d}.h5") for shard in range(2)]
    asked = job(
        files | {"states": states},
        product={
            "options": {"sites": ["resid_post"]},
            "reads": {"scale": str(tmp_path / "scale.h5")},
        },
    )
    found = merged(means, asked)
    assert found["layer"].values.tolist() == list(LAYERS)
    for layer in LAYERS:
        expected = 2 * values(layer, "resid_post").astype(float).mean(0)
        np.testing.assert_allclose(found["resid_post"].sel(layer=layer), expected, rtol=1e-12)
        first = values(layer, "resid_post")[0]
        np.testing.assert_array_equal(found["first"].sel(layer=layer), first)


def write_function(folder, value):
    place = folder / "studies" / "made_up_for_a_test"
    place.mkdir(parents=True)
    (place / "statistics.py").write_text(f"def f():\n    return {value}\n", encoding="utf-8")


def test_a_function_of_the_working_directory_is_imported(tmp_path, monkeypatch):
    write_function(tmp_path, 42)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert load("studies/made_up_for_a_test/statistics.py:f")() == 42


def test_a_function_of_the_workflow_is_imported_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = load("studies/category_selectivity/statistics.py:rsa")
    assert found.__module__ == "studies.category_selectivity.statistics"
