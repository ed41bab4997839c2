"""Exactly what is stale: edits of a copy of the repository, and the jobs Snakemake then plans."""

import os
import shutil

import pytest
from conftest import build
from edits import (
    ALL,
    EDITS,
    FIGURES,
    GELU_FIGURE,
    HISTOGRAMS,
    MADE,
    OF_MODEL,
    PAGES,
    RSA,
    RSA_FIGURE,
    START_PAGE,
    TEXT_PAGE,
    TEXT_SWEEP,
    TSNE,
    add_sites,
)
from transformers import AutoTokenizer
from workflows import TEXTS, Clone


@pytest.fixture(scope="module")
def clone(tmp_path_factory, model):
    clone = Clone(tmp_path_factory.mktemp("clone"), model)
    assert clone.run() == ALL
    return clone


def test_a_model_that_is_deleted_makes_nothing_stale(clone, tmp_path):
    # Before the edits: one of them touches the files of the model's source.
    clone = clone.copy(tmp_path / "edited")
    shutil.rmtree(clone.product("models"))
    assert clone.planned() == set()
    clone.product("activations/tiny/words/layer-01.h5").unlink()
    for folder in ("statistics/category_selectivity", "figures/category_selectivity"):
        shutil.rmtree(clone.product(folder))
    # What the sweep needs is fetched again, and with it goes all that is made from the model.
    stale = OF_MODEL
    assert clone.planned() == stale
    assert clone.run() == stale
    assert clone.planned() == set()


#: What would be entered by hand for a site of GPT-2.
ENTERED = ("EXPLICIT: dict[str, dict[str, Tap]] = {", '"gpt2": {{"{}": Tap("{}")}}, ')


@pytest.mark.parametrize(
    ("site", "path", "stale"),
    [("mlp_out", "mlp.c_proj", TEXT_SWEEP | TSNE), ("attn_out", "attn.c_proj", set())],
)
def test_a_site_that_lies_elsewhere_makes_its_readers_stale(clone, tmp_path, site, path, stale):
    edited = clone.copy(tmp_path / "edited")
    before, entry = ENTERED
    edited.replace("microtome/models/architectures.py", before, before + entry.format(site, path))
    assert edited.run("results/models/tiny/sites.json") == {"models/tiny"}
    assert edited.planned() == stale


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_makes_exactly_its_products_stale(clone, tmp_path, edit):
    make, stale = EDITS[edit]
    edited = clone.copy(tmp_path / "edited")
    make(edited)
    assert edited.planned() == stale


def test_a_new_format_of_files_makes_everything_stale(clone, tmp_path):
    edited = clone.copy(tmp_path / "edited")
    edited.replace("microtome/store/__init__.py", "FORMAT = 1", "FORMAT = 2")
    assert edited.planned() == ALL


#: Run at every test run; `make torture` runs every edit.
RUN = (
    "a function that one statistic calls",
    "a label in a figure",
    "a study of one's own",
    "a model of another architecture in its place",
)


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(edit, marks=[] if edit in RUN else pytest.mark.torture)
        for edit, (_, stale) in EDITS.items()
        if stale
    ],
)
def test_after_running_what_is_stale_nothing_more_is(clone, tmp_path, edit):
    make, stale = EDITS[edit]
    edited = clone.copy(tmp_path / "edited")
    make(edited)
    assert edited.run() == stale
    assert edited.planned() == set()


@pytest.mark.parametrize(
    ("package", "fed"),
    [
        ("numpy", MADE),
        # Of the model's weights, the manifest that is then made again.
        ("torch", OF_MODEL),
        ("transformers", OF_MODEL),
        ("tokenizers", OF_MODEL),
        ("matplotlib", FIGURES),
        ("scikit-learn", TSNE),
        ("statsmodels", set()),
        ("jinja2", PAGES),
    ],
)
def test_another_version_of_a_dependency_makes_stale_what_it_feeds(
    clone, tmp_path, monkeypatch, package, fed
):
    installed = tmp_path / f"{package.replace('-', '_')}-99.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 99.0\n")
    path = f"{tmp_path}{os.pathsep}{clone.environment['PYTHONPATH']}"
    monkeypatch.setitem(clone.environment, "PYTHONPATH", path)
    assert clone.planned() == fed


def test_products_that_were_changed_by_hand_are_noticed_and_made_again(clone, tmp_path):
    clone = clone.copy(tmp_path / "edited")
    rsa = clone.product("statistics/category_selectivity/tiny/rsa.h5")
    whole = rsa.read_bytes()
    rsa.write_bytes(whole[:-100])
    assert clone.planned() == RSA_FIGURE  # its reader; it has itself no reason to be made
    done = clone.snakemake()
    assert done.returncode != 0
    message = "rsa.h5: changed or damaged since it was made; delete results/statistics/"
    assert message in done.stderr
    rsa.unlink()
    assert clone.planned() == RSA
    assert clone.run() == RSA
    assert rsa.read_bytes() == whole

    figure = clone.product("figures/mlp_distributions/gelu.png")
    figure.write_bytes(figure.read_bytes()[:-100])
    assert clone.planned() == TEXT_PAGE | START_PAGE  # which refuse it; `make verify` names it
    (found,) = clone.verify()
    assert found.startswith(f"{figure.relative_to(clone.folder)}: changed or damaged since")
    figure.unlink()
    assert clone.run() == GELU_FIGURE
    assert clone.verify() == []


def test_a_sweep_that_makes_the_same_bytes_stops_there(tmp_path, gpt2_tokenizer):
    """Early cutoff, with activation files of over 100 MB."""
    wide = tmp_path / "wide"
    build(wide, "gpt2", vocab_size=50257, n_inner=1024, num_hidden_layers=3)
    AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(wide)
    clone = Clone(tmp_path / "clone", wide)
    clone.save(TEXTS | {"texts": ["word " * 60] * 440}, "stimuli/texts.yaml")
    add_sites(clone)
    del clone.config["studies"]["category_selectivity"]
    clone.save_study("mlp_distributions", {"stimuli": "texts"})  # without t-SNE, which takes hours
    clone.save(clone.config)
    clone.run()
    layer = clone.product("activations/tiny/texts/layer-01.h5")
    assert layer.stat().st_size > 100e6
    clone.replace("microtome/models/calls.py", "Stop(Exception)", "Stop(BaseException)")
    assert clone.planned() == TEXT_SWEEP | HISTOGRAMS | START_PAGE
    assert clone.run("tokens") == set()
    assert clone.run("activations") == TEXT_SWEEP
    assert clone.run("statistics") == set()
    assert clone.run() == set()
