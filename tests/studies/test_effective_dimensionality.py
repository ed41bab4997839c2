"""The study of effective dimensionality against forwards of the Hugging Face model."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import build, describe
from hooked import load
from scipy import stats
from sklearn.decomposition import PCA
from studied import ROOT, layer_files, statistics
from transformers import AutoTokenizer

from microtome.models.fetch import fetch
from microtome.models.sources import Folder
from microtome.statistics import dimensionality as method
from microtome.store.datasets import write_dataset
from microtome.texts.forms import Starts
from microtome.texts.stimuli import read_set
from microtome.texts.tokens import token_table

STUDY = "effective_dimensionality"
MODELS = ["gpt2", "llama", "smollm2"]
SETS = ("alice", "alice_shuffled", "html", "html_shuffled")
N_TOKENS = 40


@pytest.fixture(scope="module", params=MODELS)
def run(request, tmp_path_factory, gpt2_tokenizer):
    """What the study makes of the first tokens of its texts, and full forwards of the same."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "smollm2":
        checkpoint = request.getfixturevalue("smollm2")
    else:
        origin = build(folder / "origin", request.param, vocab_size=50257)
        AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(origin)
        checkpoint = folder / "checkpoint"
        fetch(Folder(origin), checkpoint)
    model = load(checkpoint)
    n_layers, inputs, outputs = model.config.num_hidden_layers, {}, {}
    for name in SETS:
        said = read_set(ROOT / "stimuli" / f"{name}.yaml")
        cut = Starts((0,), N_TOKENS)
        table = token_table(said.stimuli, checkpoint, cut=cut, shuffled=said.shuffled)
        place = folder / name
        place.mkdir()
        write_dataset(table, place / "tokens.h5")
        final = ["ln_final", "logits"]
        *paths, last = layer_files(place, checkpoint, table, ["resid_pre"], range(n_layers), final)
        inputs[name] = {
            "layers": paths,
            "final": [last],
            "tokens": place / "tokens.h5",
            "checkpoint": checkpoint,
            "manifest": describe(checkpoint),
        }
        ids = torch.tensor(table["token_id"].values.reshape(-1, N_TOKENS)).long()
        with torch.no_grad():
            outputs[name] = ids, model(ids, output_hidden_states=True)
    made = statistics(STUDY, folder, inputs)
    return SimpleNamespace(made=made, outputs=outputs, n_layers=n_layers)


def hidden_states(run, name, tokens="all"):
    """The hidden states of each sequence, (hidden, sequence, token, d_model)."""
    first = 1 if tokens == "rest" else 0
    return np.stack([h[:, first:].double().numpy() for h in run.outputs[name][1].hidden_states])


@pytest.mark.parametrize("prefix", ["", "html_"])
@pytest.mark.parametrize("kind", ["", "shuffled_"])
def test_most_likely(run, prefix, kind):
    found = run.made[f"{prefix}{kind}most_likely"]
    name = ("html" if prefix else "alice") + ("_shuffled" if kind else "")
    highest = run.outputs[name][1].logits[0].double().log_softmax(-1).max(-1).values.numpy()
    np.testing.assert_allclose(found["log_probability"], highest, rtol=1e-5)
    density, edges = np.histogram(found["log_probability"].values, bins="fd", density=True)
    np.testing.assert_allclose(found["density"], density)
    np.testing.assert_allclose(found["left_edge"], edges[:-1])


@pytest.mark.parametrize("tokens", ["all", "rest"])
def test_spectrum_is_that_of_a_principal_component_analysis(run, tokens):
    found = run.made["spectrum"].sel(tokens=tokens)
    layer = found.attrs["layer"]
    assert layer == round(0.2 * (run.n_layers - 1))
    explained = PCA().fit(hidden_states(run, "alice", tokens)[layer, 0]).explained_variance_ratio_
    ours = found["explained"].dropna("component") / 100
    np.testing.assert_allclose(ours, explained, rtol=1e-5, atol=1e-9)
    cumulative = np.cumsum(explained)
    np.testing.assert_allclose(found["cumulative"][: len(cumulative)] / 100, cumulative, rtol=1e-5)
    # The notebook's `np.where(cumulative > 95)[0][0]` is the last component's index.
    assert found["n_components"].item() == np.flatnonzero(cumulative > 0.95)[0] + 1


@pytest.mark.parametrize("tokens", ["all", "rest"])
@pytest.mark.parametrize("prefix", ["", "html_"])
def test_dimensionality(run, prefix, tokens):
    for kind in ("", "shuffled_"):
        found = run.made[f"{prefix}{kind}dimensionality"].sel(tokens=tokens)
        name = ("html" if prefix else "alice") + ("_shuffled" if kind else "")
        states = hidden_states(run, name, tokens)
        assert found["hidden"].values.tolist() == ["Emb", *(f"L{i}" for i in range(run.n_layers))]
        assert (found["n_tokens"] == states.shape[2]).all()
        for hidden, sequences in enumerate(states):
            for number, vectors in enumerate(sequences):
                ours = found.isel(hidden=hidden, sequence=number)
                centred = torch.tensor(vectors - vectors.mean(axis=0)).float()
                assert ours["rank"].item() == torch.linalg.matrix_rank(centred).item()
                covariance = np.cov(vectors.T)
                ratio = np.trace(covariance) ** 2 / (covariance**2).sum()
                assert ours["participation_ratio"].item() == pytest.approx(ratio, rel=1e-5)
                cumulative = np.cumsum(PCA().fit(vectors).explained_variance_ratio_)
                count = np.flatnonzero(cumulative > 0.95)[0] + 1
                assert ours["n_components"].item() == count


def test_tokens_and_their_shuffles(run):
    found, ids = run.made["shuffled_dimensionality"], run.outputs["alice_shuffled"][0]
    assert found.sizes["sequence"] == len(ids) == 4
    unique = [len(set(sequence.tolist())) for sequence in ids]
    assert found["n_unique"].sel(tokens="all").values.tolist() == unique
    assert run.made["dimensionality"].attrs == {"percent": 95, "first_token": 1}


def test_comparison(run):
    found, shuffled = run.made["comparison"], run.made["shuffled_dimensionality"]
    for name in ("n_components", "participation_ratio"):
        ours, values = found.sel(measure=name), shuffled[name].values
        np.testing.assert_array_equal(ours["observed"], run.made["dimensionality"][name][:, 0])
        np.testing.assert_allclose(ours["shuffled"], stats.gmean(values, axis=1))
        # The interval of a difference of two means, one of a single value.
        n = values.shape[1]
        error = stats.gstd(values, axis=1) ** np.sqrt(1 / n + 1)
        half = error ** stats.t(n - 1).isf(0.025)
        np.testing.assert_allclose(ours["low"], ours["shuffled"] / half)
        np.testing.assert_allclose(ours["high"], ours["shuffled"] * half)
    assert run.made["html_comparison"]["low"].isnull().all()
    assert (found.attrs["n_shuffles"], run.made["html_comparison"].attrs["n_shuffles"]) == (4, 1)


@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_components_of_known_variances(shape):
    """Vectors whose principal components have variances that are set."""
    random, n = np.random.default_rng(0), 5
    left = np.linalg.qr(random.normal(size=(shape[0], n + 1)) - 0)[0]
    left = np.linalg.qr(np.column_stack([np.ones(shape[0]), left[:, :n]]))[0][:, 1:]
    right = np.linalg.qr(random.normal(size=(shape[1], n)))[0]
    variances = np.array([60.0, 20.0, 15.0, 4.0, 1.0])
    vectors = left * np.sqrt(variances) @ right.T + 7
    found = method.component_variances(vectors)
    assert len(found) == 12
    np.testing.assert_allclose(found[:n], variances, rtol=1e-10)
    np.testing.assert_allclose(found[n:], 0, atol=1e-10)
    assert method.numerical_rank(found, shape) == n
    assert method.participation_ratio(found) == pytest.approx(1e4 / (60**2 + 20**2 + 15**2 + 17))
    counts = [method.components_needed(found, percent).item() for percent in (59, 61, 94.9, 95.1)]
    assert counts == [1, 2, 3, 4]


def test_equal_vectors_have_no_dimension():
    found = method.component_variances(np.ones((2, 4, 3)))
    assert method.components_needed(found, 95).tolist() == [0, 0]
    assert method.numerical_rank(found, (4, 3)).tolist() == [0, 0]
    assert np.isnan(method.participation_ratio(found)).all()


def test_the_line_has_one_dimension():
    found = method.noisy_line_demonstration(50, 5.0, 0.07, 0)
    line, noisy = found["y"].values
    np.testing.assert_array_equal(line, found["x"])
    assert np.std(noisy - line) == pytest.approx(0.07, rel=0.3)
    covariance = np.cov(found["x"], noisy)
    ratio = np.trace(covariance) ** 2 / (covariance**2).sum()
    np.testing.assert_allclose(found["participation_ratio"], [1, ratio])
    xr.testing.assert_identical(found, method.noisy_line_demonstration(50, 5.0, 0.07, 0))
