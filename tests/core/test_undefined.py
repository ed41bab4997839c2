"""Statistics of what leaves them undefined: NaN in, NaN out, no p-value; and extreme options."""

import tracemalloc

import numpy as np
import pytest
import xarray as xr

from microtome.errors import MicrotomeError
from microtome.statistics import permutation
from microtome.statistics.correlation import correlations, paired_values
from microtome.statistics.dimensionality import linear_separation_demonstration, tsne
from microtome.statistics.distributions import (
    MOST_BINS,
    Histograms,
    freedman_diaconis,
    gelu_demonstration,
    histograms,
    is_constant,
)
from microtome.statistics.layers import stack_layers
from microtome.statistics.moments import Moments
from microtome.statistics.permutation import mantel_test, selectivity_test
from microtome.statistics.prediction import next_tokens, target_log_probability
from microtome.statistics.regression import regression
from microtome.statistics.selectivity import (
    selectivity,
    similarity_distributions,
    t_tests,
    text_tuning,
)
from microtome.statistics.similarity import (
    cosine_similarities,
    representational_similarity,
    token_similarity,
)
from microtome.statistics.streamed import streamed
from microtome.store.layers import Section

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def words(category, vectors=None, sites="kv"):
    """Similarities of words of some categories, at one layer."""
    random = np.random.default_rng(0)
    n = len(category)
    values = {site: random.normal(size=(n, 5)) if vectors is None else vectors for site in sites}
    coordinates = {"word": np.arange(n).astype(str).astype(object), "category": category}
    data = xr.Dataset(
        {site: (("sequence", "d"), array) for site, array in values.items()},
        {name: ("sequence", np.array(column)) for name, column in coordinates.items()},
    )
    return cosine_similarities(data, list(sites)).expand_dims(layer=[0])


ONE_CATEGORY = words(["a"] * 5)
ONE_WORD_EACH = words(["a", "b", "c", "d"])
#: A template whose last token is not the word: the same activation for every word.
EQUAL = words(["a", "a", "b", "b", "b"], np.tile([0.1, 0.7, -0.3], (5, 1)).astype(np.float32))
#: The same, but for the last digits of float64.
NEARLY_EQUAL = EQUAL + np.random.default_rng(1).normal(scale=1e-15, size=EQUAL["cosine"].shape)


@pytest.mark.parametrize("cosines", [ONE_CATEGORY, ONE_WORD_EACH, EQUAL, NEARLY_EQUAL])
def test_an_undefined_selectivity_has_no_p(cosines):
    found = selectivity(cosines)
    assert np.isnan(found["t"]).all()
    assert np.isnan(found["p"]).all()
    assert np.isnan(selectivity_test(cosines, 50, 0)["p"]).all()
    drawn = similarity_distributions(cosines.sel(layer=0))
    assert np.isnan(drawn["t"]).all()


def test_a_defined_selectivity_keeps_its_p_beside_an_undefined_one():
    random = np.random.default_rng(0)
    whole = words(["a", "a", "b", "b", "b"], random.normal(size=(5, 4)), sites="kv")
    whole["cosine"][0, 0] = 0.5
    p = selectivity_test(whole, 50, 0)["p"].sel(scale="cosine", layer=0)
    assert np.isnan(p.sel(site="k"))
    assert 0 < p.sel(site="v") <= 1
    t = selectivity(whole)["t"].sel(scale="cosine", layer=0)
    assert np.isnan(t.sel(site="k"))
    assert np.isfinite(t.sel(site="v"))


@pytest.mark.parametrize("cosines", [EQUAL, NEARLY_EQUAL, words(["a", "b"])])
def test_an_undefined_similarity_of_sites_has_no_p(cosines):
    assert np.isnan(representational_similarity(cosines)["r"]).all()
    assert np.isnan(mantel_test(cosines, 50, 0)["p"]).all()


def test_a_vector_of_zeros_has_no_cosine():
    vectors = np.random.default_rng(0).normal(size=(5, 3))
    vectors[2] = 0
    cosines = words(["a", "a", "b", "b", "b"], vectors)
    undefined = np.isnan(cosines["cosine"].values[0, 0])
    assert (undefined == (np.add.outer(np.arange(5) == 2, np.arange(5) == 2))).all()
    assert np.isnan(selectivity(cosines)["p"]).all()
    assert np.isnan(selectivity_test(cosines, 20, 0)["p"]).all()
    assert np.isnan(representational_similarity(cosines)["r"]).all()
    assert np.isnan(mantel_test(cosines, 20, 0)["p"]).all()
    density = similarity_distributions(cosines.sel(layer=0))["density"]
    assert np.isfinite(density.isel(bin=0)).all()


def test_a_constant_has_no_correlation():
    values = np.random.default_rng(0).normal(size=(6, 4))
    data = xr.Dataset({"a": (("s", "d"), values), "b": (("s", "e"), np.full((6, 4), 0.1))})
    data["c"] = ("s", "d"), values + 1
    r = correlations(data, ["a", "b", "c"])["r"]
    assert np.isnan(r.sel(pair=["a-b", "b-c"])).all()
    assert r.sel(pair="a-c").item() == pytest.approx(1)


def test_what_counts_as_constant():
    assert is_constant(np.array([[0.3, 0.3 + 1e-16], [0.3, 0.3001]])).tolist() == [True, False]
    assert is_constant(np.zeros((2, 1))).all()
    assert is_constant(np.zeros((3, 0))).shape == (3,)
    assert not is_constant(np.array([np.nan, 1.0]))


def neurons(first, second):
    """Activations of the words of two categories, (word, neuron) each."""
    category = ["noun"] * len(first) + ["verb"] * len(second)
    return xr.Dataset(
        {"activation": (("word", "neuron"), np.concatenate([first, second]))},
        {"category": ("word", category), "n_tokens": ("word", np.ones(len(category), int))},
        {"layer": 0, "site": "pre"},
    )


def test_a_neuron_without_variance_has_no_p():
    first, second = np.random.default_rng(0).normal(size=(2, 4, 4))
    first[:, 1], second[:, 1] = 0.3, 0.1  # apart by the same in every pair
    first[:, 2], second[:, 2] = 0.3, 0.3 + np.array([0, 1, -1, 2]) * 1e-16
    second[:, 3] = first[:, 3] - 0.7  # varies, though not from pair to pair
    tests = t_tests(neurons(first, second), ["noun", "verb"], 0.05)
    undefined = np.array([[False, True, True, True], [False, True, True, False]])
    np.testing.assert_array_equal(np.isnan(tests["t"]), undefined)
    np.testing.assert_array_equal(np.isnan(tests["p"]), undefined)
    assert not tests["significant"].values[:, :, 1:3].any()


def test_one_word_each_leaves_no_neuron_to_choose():
    one = np.ones((1, 3))
    tests = t_tests(neurons(one, 2 * one), ["noun", "verb"], 0.05)
    assert np.isnan(tests["p"]).all()
    columns = {"sequence": [0, 0], "position": [0, 1], "text": ["a", "b"]}
    section = xr.Dataset(
        {"pre": (("token", "d"), np.zeros((2, 3)))},
        {name: ("token", column) for name, column in columns.items()},
        {"layer": 0},
    )
    with pytest.raises(MicrotomeError, match="no neuron of pre in layer 0 has a t-value"):
        text_tuning(section, tests, "pre")


def test_equal_norms_leave_nothing_to_predict():
    n = 40
    columns = {"sequence": np.zeros(n, int), "position": np.arange(n)}
    norms = xr.Dataset(
        {"log_norm": ("token", np.full(n, 0.1))},
        {name: ("token", column) for name, column in columns.items()},
    )
    with pytest.raises(MicrotomeError, match="norms of all tokens are equal"):
        regression(norms, 2)


@pytest.mark.parametrize("sites", [["q", "pre"], ["q", "k3"], ["q", "post"]])
def test_sites_of_unequal_shape_cannot_be_paired(sites):
    data = xr.Dataset(
        {
            "q": (("s", "n_heads", "d_head"), np.ones((2, 4, 3))),
            "k3": (("s", "n_kv", "d_head"), np.ones((2, 3, 3))),
            "pre": (("s", "d_mlp"), np.ones((2, 12))),
            "post": (("s", "d_other"), np.ones((2, 24))),
        }
    )
    with pytest.raises(MicrotomeError, match=r"sites q \(4, 3\) and .*`sites`"):
        paired_values(data, sites)
    with pytest.raises(MicrotomeError, match=r"sites pre .12,. and post .24,."):
        paired_values(data, ["pre", "post"])


def test_one_site_makes_no_pair():
    data = words(["a", "a", "b"], sites="k")
    for statistic in (
        lambda: representational_similarity(data),
        lambda: mantel_test(data, 5, 0),
        lambda: correlations(xr.Dataset(), ["k"]),
    ):
        with pytest.raises(MicrotomeError, match="pairs want two or more"):
            statistic()


def test_permutations_in_parts_give_the_same_p(monkeypatch):
    random = np.random.default_rng(0)
    layers = [words(list("aabbbccc"), random.normal(size=(8, 6))) for _ in range(3)]
    data = xr.concat([row.assign_coords(layer=[i]) for i, row in enumerate(layers)], "layer")
    data["cosine"] += random.normal(scale=0.1, size=data["cosine"].shape)
    expected = selectivity_test(data, 99, 3), mantel_test(data, 99, 3)
    for most in (1, 100, 1000):
        monkeypatch.setattr(permutation, "MOST_NUMBERS", most)
        xr.testing.assert_identical(selectivity_test(data, 99, 3), expected[0])
        xr.testing.assert_identical(mantel_test(data, 99, 3), expected[1])


def test_permutations_of_many_words_stay_in_bounds():
    data = words([f"c{i % 4}" for i in range(120)])  # 7,140 pairs: 571 MB for all permutations
    tracemalloc.start()
    selectivity_test(data, 10_000, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 250e6


def test_layers_are_stacked_as_xarray_stacks_them():
    rows = [words(["a", "b"]).isel(layer=0, drop=True).assign_attrs(a=1) for _ in range(3)]
    found = stack_layers(((i, row) for i, row in zip((1, 4, 7), rows, strict=True)), 3)
    expected = xr.concat(
        [row.expand_dims(layer=[i]) for i, row in zip((1, 4, 7), rows, strict=True)],
        dim="layer",
        coords="minimal",
        compat="override",
        join="exact",
    )
    xr.testing.assert_identical(found, expected)
    assert list(found.variables) == list(expected.variables)
    with pytest.raises(ValueError, match="layer 2 has"):
        stack_layers([(1, rows[0]), (2, rows[1].isel(word=[0]))], 2)


@pytest.mark.parametrize(
    "values",
    [
        np.full(100, 1 / 3),
        1 + np.random.default_rng(0).normal(scale=1e-16, size=50),
        np.concatenate([np.random.default_rng(0).normal(scale=1e-9, size=1000), [1e6]]),
        np.array([1.0]),
        np.array([np.nan, 1.0, np.inf, 2.0]),
        np.array([np.nan]),
    ],
)
@pytest.mark.parametrize("density", [True, False])
def test_degenerate_values_make_a_histogram_of_bounded_size(values, density):
    heights, left_edges = freedman_diaconis([values], density=density)
    assert heights.shape == left_edges.shape
    assert heights.shape[1] <= MOST_BINS
    assert np.isfinite(heights).all()
    if not density:
        assert heights.sum() == np.isfinite(values).sum()


@pytest.mark.parametrize(
    ("n_edges", "limit"),
    [(11, 1.7e308), (11, 0.0), (11, np.inf), (11, np.nan), (11, 5e-324), (1, 1.0)],
)
def test_limits_that_make_no_bins(n_edges, limit):
    with pytest.raises(MicrotomeError, match="make no bins; correct the options `limit`"):
        histograms([np.zeros(3)], n_edges, limit)


def test_demonstrations_refuse_what_is_no_number():
    with pytest.raises(MicrotomeError, match="`limit`"):
        gelu_demonstration(5, 1e200)
    with pytest.raises(MicrotomeError, match="`noise`"):
        linear_separation_demonstration(5, np.inf, 0)


def test_equal_tokens_have_no_map():
    data = xr.Dataset(
        {"a": (("token", "d"), np.full((6, 4), 0.1))},
        {"text": ("token", np.array(["x"] * 6, dtype=object))},
    )
    with pytest.raises(MicrotomeError, match="site a: its 6 tokens are all equal"):
        tsne(data, ["a"], 2, 0)


def test_a_site_in_no_layer_has_no_streamed_statistic():
    sections = [Section(None, np.arange(2), {"ln_final": np.ones((2, 3), np.float32)})]
    with pytest.raises(MicrotomeError, match=r"'ln_final'.*in no layer"):
        streamed(Moments(["ln_final"]), sections)
    with pytest.raises(MicrotomeError, match=r"'ln_final'.*in no layer"):
        streamed(Histograms(["ln_final"], 5, 1.0), sections)


def test_a_scaling_that_is_no_number_is_not_stored():
    predicted = xr.DataArray(
        -np.ones((3, 1, 1)), {"layer": [0, 4, 5]}, ("layer", "token", "target")
    )
    outcome = {"log_probabilities": predicted, "clean_log_probabilities": predicted[0]}
    assert target_log_probability(xr.Dataset(outcome))["clean"] == -1
    predicted[1] = np.nan
    with pytest.raises(MicrotomeError, match="with block 4 changed, the log-probability is not"):
        target_log_probability(xr.Dataset(outcome))


def test_a_token_with_a_nul_can_be_stored():
    class Tokens:
        def decode(self, ids):
            return "a\0b" if ids == [1] else "c"

    columns = {"sequence": [0], "position": [0]}
    section = xr.Dataset(
        {"logits": (("token", "d_vocab"), [[0.0, 2.0, 1.0]])},
        {name: ("token", column) for name, column in columns.items()},
    )
    found = next_tokens(section, Tokens(), 10)
    assert found["text"].values.tolist() == ["a␀b", "c", "c"]


def test_a_hidden_state_of_zeros_is_drawn_as_nan():
    columns = {"sequence": [0, 0], "position": [0, 1]}
    states = xr.DataArray(
        np.array([[[0.0, 0.0], [1.0, 0.0]]], np.float32),
        {"hidden": ["Emb"]} | {name: ("token", column) for name, column in columns.items()},
        ("hidden", "token", "d_model"),
    )
    found = token_similarity(states, 1)["cosine"].values
    np.testing.assert_array_equal(np.isnan(found), [[[True, True], [True, False]]])


def test_layers_are_stacked_without_a_second_copy():
    def rows():
        for layer in range(16):
            yield layer, xr.Dataset({"cosine": (("word", "other"), np.zeros((250, 500)))})

    tracemalloc.start()
    found = stack_layers(rows(), 16)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.nbytes > 16e6
    assert peak < 1.3 * found.nbytes
