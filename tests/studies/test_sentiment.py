"""The study on sentiment against full forwards of the Hugging Face model and plain scikit-learn."""

import inspect
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from conftest import in_batches
from encoders import tiny
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier
from statsmodels.stats.multitest import multipletests
from studied import ROOT, by_layer, layer_files, product, study
from transformers import AutoModel, AutoTokenizer

from microtome.errors import MicrotomeError
from microtome.figures.style import save, style
from microtome.statistics.classification import cross_validated, of_categories
from microtome.store.datasets import open_layer, read_dataset, write_dataset
from microtome.store.tables import write_table
from microtome.texts.stimuli import read_set
from microtome.texts.tokens import token_table
from studies.sentiment import captions

STUDY = "sentiment"
LABELS = ("negative", "positive")
#: Every fourth sentence of the default set, 15 of each category.
SENTENCES = read_set(ROOT / "stimuli" / "sentiment.yaml").stimuli[::4]


@pytest.fixture(scope="module", params=["bert", "distilbert", "minilm"])
def run(request, tmp_path_factory, minilm):
    """Random encoders with MiniLM's tokenizer, and MiniLM: the sweep, and full forwards."""
    folder, checkpoint = tmp_path_factory.mktemp(request.param), minilm
    if request.param != "minilm":
        checkpoint = tiny(folder, request.param, "none", vocab_size=30522)
        AutoTokenizer.from_pretrained(minilm).save_pretrained(checkpoint)
    table = token_table(SENTENCES, checkpoint)
    model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    ids = tokenizer([sentence.text for sentence in SENTENCES])["input_ids"]
    states = [None] * len(ids)
    for members in in_batches(ids):
        with torch.no_grad():
            output = model(torch.tensor([ids[i] for i in members]), output_hidden_states=True)
        first_tokens = torch.stack([state[:, 0] for state in output.hidden_states], dim=1)
        for i, of_text in zip(members, first_tokens.double().numpy(), strict=True):
            states[i] = of_text
    layers = range(len(states[0]) - 1)
    *files, last = layer_files(folder, checkpoint, table, ["resid_pre"], layers, ["ln_final"])
    with open_layer(last) as section:
        final = section["ln_final"].load()
    return SimpleNamespace(
        table=table,
        resid_pre=by_layer(files, lambda section: section[["resid_pre"]])["resid_pre"],
        ln_final=final,
        states=np.swapaxes(states, 0, 1),
        label=np.array([sentence.category == "positive" for sentence in SENTENCES], int),
    )


def made(run, statistic, **options):
    function = product(STUDY, "statistics", statistic)
    options = study(STUDY)["statistics"][statistic] | options
    names = [n for n, p in inspect.signature(function).parameters.items() if p.kind != 3]
    return function(*(getattr(run, name) for name in names), **options)


def test_batches_are_padded_to_their_longest_text(run):
    tokens = run.table
    found = product(STUDY, "statistics", "batches")(tokens, batch_size=12)
    lengths = [tokens["sequence"].values.tolist().count(number) for number in range(30)]
    assert found["n_texts"].values.tolist() == [12, 12, 6]
    expected = [max(lengths[:12]), max(lengths[12:24]), max(lengths[24:])]
    assert found["n_tokens"].values.tolist() == expected


def test_means_are_those_of_a_full_forward(run):
    found = made(run, "means")
    mean = run.states.mean(axis=2)
    np.testing.assert_allclose(found["mean"], mean, rtol=1e-5)
    assert found["label"].values.tolist() == run.label.tolist()
    for test, equal in (("student", True), ("welch", False)):
        expected = [
            stats.ttest_ind(row[run.label == 0], row[run.label == 1], equal_var=equal)
            for row in found["mean"].values[1:]
        ]
        np.testing.assert_allclose(found["t"].sel(test=test)[1:], [e.statistic for e in expected])
        p = [e.pvalue for e in expected]
        for correction, method in (("holm", "holm"), ("benjamini_hochberg", "fdr_bh")):
            significant = found["significant"].sel(test=test, correction=correction).values
            assert significant[0] == 0
            assert significant[1:].tolist() == multipletests(p, 0.05, method)[0].tolist()
    # [CLS] is the same before the first block, whatever the sentence.
    assert np.isnan(found["t"].values[:, 0]).all()


def first(activations):
    """[CLS] of each text, in the bits that the statistics read."""
    return activations.values[activations["position"].values == 0].astype(float)


def pipeline(seed):
    tree = DecisionTreeClassifier(max_depth=4, random_state=seed)
    return make_pipeline(PCA(0.8, svd_solver="full"), tree)


def both(fitted, rows, label, train, test):
    return [fitted.score(rows[part], label[part]) for part in (train, test)]


def test_splits_are_those_of_scikit_learn(run):
    found = made(run, "splits", n_runs=3, seed=5)
    rows, label = first(run.ln_final), run.label
    np.testing.assert_array_equal(rows, run.states[-1])
    reduced = PCA(0.8, svd_solver="full").fit_transform(rows)
    for number in range(3):
        train, test = train_test_split(
            np.arange(30), test_size=0.2, stratify=label, random_state=5 + number
        )
        tree = DecisionTreeClassifier(max_depth=4, random_state=5 + number)
        tree.fit(reduced[train], label[train])
        accuracies = both(tree, reduced, label, train, test)
        own = both(pipeline(5 + number).fit(rows[train], label[train]), rows, label, train, test)
        at = found.isel(run=number)
        names = ("train", "test", "train_own", "test_own")
        np.testing.assert_allclose([at[name].item() for name in names], accuracies + own)
    np.testing.assert_allclose(found["importance"], tree.feature_importances_)
    # Every training text walks down the tree to a leaf that counts it.
    left, right, n = (found[name].values for name in ("left", "right", "n"))
    counted = np.zeros_like(n)
    for row, of in zip(reduced[train], label[train], strict=True):
        node = 0
        while left[node] >= 0:
            below = row[found["feature"].values[node]] <= found["threshold"].values[node]
            counted[node, of] += 1
            node = (left if below else right)[node]
        counted[node, of] += 1
    assert counted.tolist() == n.tolist()
    leaves = n[left < 0]
    assert leaves.max(axis=1).sum() / leaves.sum() == pytest.approx(accuracies[0])


def test_accuracies_over_hidden_states_are_those_of_scikit_learn(run):
    options = {"n_repetitions": 2, "n_folds": 3, "n_permutations": 4, "seed": 1}
    found = made(run, "laminar_accuracy", **options)
    states = [*map(first, run.resid_pre), first(run.ln_final)]
    label = run.label
    for hidden in range(1, len(states)):
        accuracies = []
        for number in range(2):
            train, test = train_test_split(
                np.arange(30), test_size=0.2, stratify=label, random_state=1 + number
            )
            fitted = pipeline(1 + number).fit(states[hidden][train], label[train])
            accuracies.append(both(fitted, states[hidden], label, train, test))
        at = found.isel(hidden=hidden)
        expected = np.mean(accuracies, axis=0)
        np.testing.assert_allclose([at["train"].item(), at["test"].item()], expected)
        right = 0
        for train, test in StratifiedKFold(3, shuffle=True, random_state=1).split(label, label):
            fitted = pipeline(1).fit(states[hidden][train], label[train])
            right += (fitted.predict(states[hidden][test]) == label[test]).sum()
        assert at["cross_validated"].item() == pytest.approx(right / 30)
        assert at["p"].item() <= at["p_corrected"].item() <= 1
    # Before the first block every [CLS] is alike: a tree says the same of all.
    embedded = found.isel(hidden=0)
    assert [embedded[name].item() for name in ("train", "test", "null_mean")] == [0.5, 0.5, 0.5]
    assert embedded["p"].item() == 1


def test_labels_that_can_be_told_apart_are_and_permuted_ones_are_not():
    random = np.random.default_rng(0)
    label = np.arange(60) % 2
    told = random.normal(size=(60, 6)) + 8 * label[:, None]
    true, null = cross_validated(
        np.stack([told, random.normal(size=(60, 6))]),
        label,
        n_folds=5,
        n_permutations=19,
        seed=0,
    )
    assert true[0] == 1 and true[1] < 0.7
    assert null.shape == (2, 19) and (null < 0.85).all()
    assert abs(null.mean() - 0.5) < 0.06
    with pytest.raises(MicrotomeError, match="n_folds: wants 2 to 30"):
        cross_validated(told[None], label, n_folds=1, n_permutations=1, seed=0)


def test_the_line_is_that_of_scipy():
    test = np.array([0.5, 0.55, 0.62, 0.6, 0.71, 0.7])
    found = product(STUDY, "statistics", "improvement")(
        xr.Dataset({"test": ("hidden", test)}), alpha=0.05
    )
    line = stats.linregress(np.arange(1, 6), test[1:])
    width = stats.t.ppf(0.975, 3) * line.stderr
    expected = {"const": line.intercept, "slope": line.slope, "r_squared": line.rvalue**2}
    expected |= {"low": line.slope - width, "high": line.slope + width}
    expected |= {"step": np.diff(test[1:]).mean()}
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-9)
    np.testing.assert_allclose(found["fit"], line.intercept + line.slope * np.arange(1, 6))


def test_means_that_vary_by_rounding_alone_are_not_compared():
    random = np.random.default_rng(0)
    states = random.normal(size=(2, 12, 50)).astype(np.float32)
    states = (states - states.mean(axis=2, keepdims=True)) * 3
    columns = {"sequence": np.arange(12), "position": np.zeros(12, int)}
    columns["category"] = np.array(LABELS * 6, dtype=object)
    coords = {name: ("token", values) for name, values in columns.items()}
    run = SimpleNamespace(
        resid_pre=xr.DataArray(states[:1], coords | {"layer": [0]}, ("layer", "token", "d_model")),
        ln_final=xr.DataArray(states[1], coords, ("token", "d_model")),
    )
    found = made(run, "means")
    assert 0 < np.abs(found["mean"]).max() < 1e-6
    assert np.isnan(found["t"]).all() and not found["significant"].any()
    (axes,) = product(STUDY, "figures", "violins")(found).axes
    assert axes.get_title() == "Mean [CLS] acts (they vary by rounding alone)"
    assert captions.violins(found).startswith("The means do not vary")


def test_categories_that_cannot_serve_are_named():
    few = xr.DataArray(
        np.zeros((12, 2)),
        {"category": ("sequence", ["a"] * 9 + ["b"] * 3)},
        ("sequence", "d_model"),
    )
    with pytest.raises(MicrotomeError, match="labels: no category 'c'"):
        of_categories(few, ("a", "c"))
    with pytest.raises(MicrotomeError, match="'b' has 3 texts, 5 are the fewest"):
        of_categories(few, ("a", "b"))


@pytest.mark.parametrize("run", ["minilm"], indirect=True)
def test_every_figure_and_table_can_be_made(run, tmp_path):
    run = SimpleNamespace(**vars(run), tokens=run.table)
    small = {"n_runs": 3, "n_repetitions": 2, "n_folds": 2, "n_permutations": 3}
    for name, options in study(STUDY)["statistics"].items():
        given = {key: value for key, value in small.items() if key in options}
        write_dataset(made(run, name, **given), tmp_path / f"{name}.h5")
        setattr(run, name, read_dataset(tmp_path / f"{name}.h5"))
    for kind in ("figures", "tables"):
        for name, options in study(STUDY)[kind].items():
            function = product(STUDY, kind, name)
            names = [n for n, p in inspect.signature(function).parameters.items() if p.kind != 3]
            found = function(*(getattr(run, n) for n in names), **options)
            if kind == "tables":
                write_table(found, tmp_path / f"{name}.csv", tmp_path / f"{name}.txt")
                assert len(pd.read_csv(tmp_path / f"{name}.csv")) > 0
            else:
                with style("light"):
                    save(found, tmp_path / f"{name}.svg", tmp_path / f"{name}.png", dpi=30)
