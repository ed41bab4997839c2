"""The study of effective dimensionality against forwards of the Hugging Face model."""

from inspect import signature
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import build, describe
from hooked import load
from scipy import stats
from sklearn.decomposition import PCA
from studied import ROOT, layer_files, product, statistics, study
from transformers import AutoTokenizer

from microtome.models.fetch import fetch
from microtome.models.sources import Folder
from microtome.statistics import dimensionality as method
from microtome.store.datasets import write_dataset
from microtome.texts.forms import Starts
from microtome.texts.stimuli import read_set
from microtome.texts.tokens import token_table

STUDY = "effective_dimensionality"
#: By model, the sets that take the place of those of the page: it itself need not run on all.
MODELS = {"gpt2": "html", "llama": "alice", "smollm2": "alice"}
N_TOKENS = 24


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
    page = MODELS[request.param]
    for name in dict.fromkeys(["alice", "alice_shuffled", page, f"{page}_shuffled"]):
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
    for kind in ("", "_shuffled"):
        inputs[f"html{kind}"], outputs[f"html{kind}"] = (d[page + kind] for d in (inputs, outputs))
    made = statistics(STUDY, folder, inputs)
    return SimpleNamespace(made=made, outputs=outputs, n_layers=n_layers, page=page)


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
def test_dimensionality(run, tokens):
    sets = {"": "alice", "shuffled_": "alice_shuffled"}
    if run.page == "html":
        sets |= {"html_": "html", "html_shuffled_": "html_shuffled"}
    for prefix, name in sets.items():
        found = run.made[f"{prefix}dimensionality"].sel(tokens=tokens)
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
        # A further one less the mean of n has the variance of one, and an nth of it.
        n, logarithms = values.shape[1], np.log(values)
        half = logarithms.std(axis=1, ddof=1) * np.sqrt(1 + 1 / n) * stats.t(n - 1).isf(0.025)
        np.testing.assert_allclose(np.log(ours["low"]), logarithms.mean(axis=1) - half, atol=1e-9)
        np.testing.assert_allclose(np.log(ours["high"]), logarithms.mean(axis=1) + half, atol=1e-9)
    below, above = found["observed"] / found["low"], found["observed"] / found["high"]
    outside = (below < 1 - 1e-6) | (above > 1 + 1e-6)
    np.testing.assert_array_equal(found["outside"], outside)
    # As embeddings without positions are: the same in every order, but for rounding.
    one = run.made["dimensionality"]
    same = xr.concat([one, one * (1 + 1e-12), one * (1 - 1e-12)], "sequence")
    assert not product(STUDY, "statistics", "comparison")(one, same, alpha=0.05)["outside"].any()
    assert found.attrs == {"alpha": 0.05, "n_shuffles": 4}
    one = run.made["shuffled_dimensionality"].isel(sequence=[0])
    alone = product(STUDY, "statistics", "comparison")(run.made["dimensionality"], one, alpha=0.1)
    assert alone["low"].isnull().all() and alone["high"].isnull().all()
    assert alone.attrs["n_shuffles"] == 1


@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_components_of_known_variances(shape):
    """Vectors whose principal components have variances that are set."""
    random, n = np.random.default_rng(0), 5
    columns = np.column_stack([np.ones(shape[0]), random.normal(size=(shape[0], n))])
    left = np.linalg.qr(columns)[0][:, 1:]  # of mean 0, as they are orthogonal to the first
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


def drawn(run, name):
    """A figure of the study, its statistics bound as in study.yaml."""
    entry = study(STUDY)["figures"][name]
    entry.pop("use", None)
    reads = entry.pop("reads", {})
    function = product(STUDY, "figures", name)
    inputs = [
        p.name for p in signature(function).parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD
    ]
    return function(*(run.made[reads.get(read, read)] for read in inputs), **entry)


def heights(axes, label):
    (line,) = (line for line in axes.lines if line.get_label() == label)
    return line.get_ydata()


def test_figures_over_the_hidden_states(run):
    for prefix in ("", "html_"):
        real, shuffled = (run.made[f"{prefix}{kind}dimensionality"] for kind in ("", "shuffled_"))
        for figure, name in (("ranks", "rank"), ("effective_dimensionality", "n_components")):
            axes = drawn(run, f"{prefix}{figure}").axes
            for label, data in (("Real tokens", real), ("Shuffled tokens", shuffled)):
                values = data.isel(sequence=0).sel(tokens="all")
                np.testing.assert_array_equal(heights(axes[0], label), values[name])
        # The share of the ranks, on the second axis.
        for line, data in zip(axes[1].lines, (shuffled, real), strict=True):
            values = data.isel(sequence=0).sel(tokens="all")
            share = 100 * values["n_components"] / values["rank"]
            np.testing.assert_array_equal(line.get_ydata(), share)


def test_figures_of_one_text(run):
    found, axes = run.made["most_likely"], drawn(run, "most_likely").axes[0]
    np.testing.assert_array_equal(heights(axes, "Real"), found["density"])
    assert heights(axes, "Shuffled").sum() > 0
    found, (left, right) = run.made["spectrum"], drawn(run, "spectrum").axes
    np.testing.assert_array_equal(heights(left, "All tokens"), found["explained"].sel(tokens="all"))
    rest = found["cumulative"].sel(tokens="rest")
    np.testing.assert_array_equal(heights(right, "Without the first"), rest)
    assert len(right.lines) == 2  # of 24 components, none is the 50th
    entry = {"limits": (-2, 60), "marked": 7}
    marks = product(STUDY, "figures", "spectrum")(found, **entry).axes[1].lines[2:]
    held = found["cumulative"].sel(tokens="all", component=7).item()
    assert (marks[0].get_ydata()[0], marks[1].get_xdata()[0]) == (held, 7)
    for axes, tokens in zip(drawn(run, "participation_ratio").axes, ("all", "rest"), strict=True):
        chosen = run.made["comparison"].sel(measure="participation_ratio", tokens=tokens)
        np.testing.assert_array_equal(heights(axes, "Real tokens"), chosen["observed"])
        np.testing.assert_array_equal(heights(axes, "Shuffled tokens"), chosen["shuffled"])


def test_tables(run):
    found = run.made["spectrum"]
    made = product(STUDY, "tables", "spectrum")(found)
    n, held = int(found["n_components"][0]), found["cumulative"].sel(tokens="all")
    assert made.text.splitlines()[0] == (
        f"All tokens: {n} (out of {held.size}) components explain {held[n - 1] / 100:.2%} of the "
        "variance"
    )
    names = ("dimensionality", "shuffled_dimensionality", "comparison")
    made = product(STUDY, "tables", "dimensionality")(*(run.made[name] for name in names))
    unique = len(set(run.outputs["alice"][0][0].tolist()))
    assert made.text.startswith(f"There are {unique} out of {N_TOKENS} unique tokens.\n")
    frame = made.frame.set_index(["tokens", "hidden"])
    assert len(frame) == 2 * (run.n_layers + 1)
    real, last = run.made["dimensionality"].isel(sequence=0), f"L{run.n_layers - 1}"
    row, values = frame.loc["rest", last], real.sel(tokens="rest", hidden=last)
    for name in ("rank", "n_components", "participation_ratio"):
        assert row[name] == values[name].item()
    assert row["percent"] == 100 * row["n_components"] / row["rank"]
    comparison = run.made["comparison"].sel(tokens="rest", hidden=last, measure="n_components")
    assert row["n_components_high"] == comparison["high"].item()


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
