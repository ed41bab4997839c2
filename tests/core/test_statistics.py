"""Statistics against plain numpy and scipy, and against tiny cases worked by hand."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from microtome.errors import MicrotomeError
from microtome.statistics.correlation import correlations, paired_values, site_pairs
from microtome.statistics.dimensionality import tsne
from microtome.statistics.distributions import histograms, site_histograms, token_histograms
from microtome.statistics.layers import stack_layers
from microtome.statistics.permutation import mantel_test, selectivity_test
from microtome.statistics.positions import at_position, distinct, from_position
from microtome.statistics.selectivity import selectivity, similarity_distributions
from microtome.statistics.similarity import (
    cosine_similarities,
    fisher_z,
    fisher_z_demonstration,
    representational_similarity,
    word_pairs,
)

WORDS = ["sun", "moon", "pear", "lime", "fig"]
CATEGORY = ["space", "space", "fruit", "fruit", "fruit"]
LENGTHS = [3, 3, 4, 3, 3]  # "pear" is two tokens long
IDS = [[7, 8, 20], [7, 8, 21], [7, 8, 22, 23], [7, 8, 24], [7, 9, 25]]


def section(layer=0, kv_heads=2):
    """Random activations of 5 sequences at 4 query heads of 3 dimensions; equal contexts agree."""
    random = np.random.default_rng(layer)
    rows = [(i, p) for i, n in enumerate(LENGTHS) for p in range(n)]
    contexts = [tuple(IDS[i][: p + 1]) for i, p in rows]
    values = {}
    for site, heads in (("q", 4), ("k", kv_heads), ("v", kv_heads)):
        known = {context: random.normal(size=(heads, 3)) for context in dict.fromkeys(contexts)}
        array = np.array([known[context] for context in contexts], np.float32)
        values[site] = (("token", "n_heads" if site == "q" else "n_kv_heads", "d_head"), array)
    coordinates = {
        "sequence": [i for i, _ in rows],
        "position": [p for _, p in rows],
        "token_id": [IDS[i][p] for i, p in rows],
        "text": ["x"] * len(rows),
        "word": [WORDS[i] for i, _ in rows],
        "category": [CATEGORY[i] for i, _ in rows],
    }
    coords = {name: ("token", np.array(column)) for name, column in coordinates.items()}
    return xr.Dataset(values, coords, {"layer": layer})


def test_at_position_counts_from_either_end():
    data = section()
    last = at_position(data, -1)
    ends = np.cumsum(LENGTHS) - 1
    np.testing.assert_array_equal(last["q"].values, data["q"].values[ends])
    assert last["q"].dims == ("sequence", "n_heads", "d_head")
    assert list(last["word"].values) == WORDS
    second = at_position(data, 1)
    assert list(second["token_id"].values) == [8, 8, 8, 8, 9]
    assert list(at_position(data, -3)["token_id"].values) == [7, 7, 8, 7, 7]


@pytest.mark.parametrize("position", [3, -4])
def test_a_position_that_a_sequence_lacks_is_an_error(position):
    with pytest.raises(MicrotomeError, match="sequence 0 has 3 tokens"):
        at_position(section(), position)


def test_distinct_keeps_each_context_once():
    assert list(distinct(section(), 0)["sequence"].values) == [0]
    assert list(distinct(section(), 1)["sequence"].values) == [0, 4]
    assert list(distinct(section(), -1)["sequence"].values) == [0, 1, 2, 3, 4]


def test_query_heads_are_paired_with_the_heads_that_serve_them():
    chosen = at_position(section(), 1)
    pairs = paired_values(chosen, ["q", "k", "v"])
    expected = []
    for i in range(5):
        for head in range(4):
            for d in range(3):
                q = chosen["q"].values[i, head, d]
                k = chosen["k"].values[i, head // 2, d]
                expected.append((q, k))
    np.testing.assert_allclose(pairs["q-k"].values.T, expected)
    assert pairs["k-v"].sizes["value_k-v"] == 5 * 2 * 3


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_correlations(kv_heads):
    chosen = at_position(section(kv_heads=kv_heads), 1)
    r = correlations(chosen, ["q", "k", "v"])["r"]
    q, k, v = (chosen[site].values for site in "qkv")
    k4, v4 = (np.repeat(x, 4 // kv_heads, axis=1) for x in (k, v))
    assert list(r["pair"].values) == site_pairs(["q", "k", "v"]) == ["q-k", "q-v", "k-v"]
    expected = [stats.pearsonr(a.ravel(), b.ravel())[0] for a, b in ((q, k4), (q, v4), (k, v))]
    np.testing.assert_allclose(r.values, expected, rtol=1e-5)


def test_masks_worked_by_hand():
    masks = word_pairs(at_position(section(), -1))
    within = np.zeros((5, 5), int)
    within[0, 1] = within[2, 3] = within[2, 4] = within[3, 4] = 1
    across = np.zeros((5, 5), int)
    across[:2, 2:] = 1
    np.testing.assert_array_equal(masks["within"], within)
    np.testing.assert_array_equal(masks["across"], across)
    np.testing.assert_array_equal(masks["same_category"], within + within.T + np.eye(5))
    np.testing.assert_array_equal(masks["upper_triangle"], within + across)


def cosines():
    layers = [cosine_similarities(at_position(section(i), -1), ["q", "k", "v"]) for i in range(3)]
    return xr.concat([c.expand_dims(layer=[i]) for i, c in enumerate(layers)], "layer")


def test_cosine_similarities():
    matrices = cosines()["cosine"]
    assert matrices.dims == ("layer", "site", "word", "other")
    for layer in range(3):
        data = at_position(section(layer), -1)
        for site in "qkv":
            for i, a in enumerate(data[site].values.reshape(5, -1).astype(float)):
                for j, b in enumerate(data[site].values.reshape(5, -1).astype(float)):
                    expected = a @ b / np.sqrt((a @ a) * (b @ b))
                    found = matrices.sel(layer=layer, site=site).values[i, j]
                    assert found == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_rsa():
    data = cosines()
    r = representational_similarity(data)["r"]
    assert r.dims == ("layer", "pair")
    upper = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    for layer in range(3):
        for pair in ("q-k", "q-v", "k-v"):
            a, b = (
                [data["cosine"].sel(layer=layer, site=site).values[place] for place in upper]
                for site in pair.split("-")
            )
            expected = stats.pearsonr(a, b)[0]
            assert r.sel(layer=layer, pair=pair).item() == pytest.approx(expected, rel=1e-10)
    one = representational_similarity(data.sel(layer=1))["r"]
    np.testing.assert_allclose(one.values, r.sel(layer=1).values)


@pytest.mark.parametrize(("scale", "transform"), [("cosine", np.array), ("fisher_z", np.arctanh)])
def test_selectivity(scale, transform):
    data = cosines()
    found = selectivity(data).sel(scale=scale)
    for layer in range(3):
        for site in "qkv":
            matrix = data["cosine"].sel(layer=layer, site=site).values
            within = transform([matrix[0, 1], matrix[2, 3], matrix[2, 4], matrix[3, 4]])
            across = transform([matrix[i, j] for i in (0, 1) for j in (2, 3, 4)])
            cell = found.sel(layer=layer, site=site)
            test = stats.ttest_ind(within, across)
            assert cell["difference"].item() == pytest.approx(np.mean(within) - np.mean(across))
            assert cell["average"].item() == pytest.approx((np.mean(within) + np.mean(across)) / 2)
            assert cell["t"].item() == pytest.approx(test.statistic)


def test_similarity_distributions():
    data = cosines().sel(layer=2)
    found = similarity_distributions(data)
    for site in "qkv":
        matrix = data["cosine"].sel(site=site).values
        across = [matrix[i, j] for i in (0, 1) for j in (2, 3, 4)]
        density, edges = np.histogram(across, bins="fd", density=True)
        cell = found.sel(site=site, pairs="across")
        bins = np.isfinite(cell["density"].values)
        np.testing.assert_allclose(cell["density"].values[bins], density)
        np.testing.assert_allclose(cell["left_edge"].values[bins], edges[:-1])
    np.testing.assert_allclose(found["t"], selectivity(cosines()).sel(scale="cosine", layer=2)["t"])


def test_fisher_z():
    r = np.array([-0.9, 0.0, 0.5])
    np.testing.assert_allclose(fisher_z(r), 0.5 * np.log((1 + r) / (1 - r)))
    assert np.isfinite(fisher_z(np.array([-1.0, 1.0, 1 + 1e-12]))).all()


def test_fisher_z_demonstration_is_seeded():
    sample = fisher_z_demonstration(1000, 3)
    xr.testing.assert_identical(sample, fisher_z_demonstration(1000, 3))
    assert not sample["r"].equals(fisher_z_demonstration(1000, 4)["r"])
    np.testing.assert_allclose(np.tanh(sample["z"]), sample["r"])
    assert sample["count"].sum("bin").values.tolist() == [1000, 1000]


def test_layers_are_stacked_along_a_dimension_of_their_own():
    def results():
        for layer in (1, 4, 12):
            yield layer, correlations(at_position(section(layer), -1), ["q", "k"])

    profile = stack_layers(results(), 3)
    assert list(profile["layer"].values) == [1, 4, 12]
    expected = correlations(at_position(section(4), -1), ["q", "k"])["r"]
    np.testing.assert_allclose(profile["r"].sel(layer=4), expected)


def permutations(n, seed):
    random = np.random.default_rng(seed)
    return [random.permutation(5) for _ in range(n)]


@pytest.mark.parametrize(("scale", "transform"), [("cosine", np.array), ("fisher_z", np.arctanh)])
def test_selectivity_test_against_scipy_one_permutation_at_a_time(scale, transform):
    data = cosines()
    p = selectivity_test(data, 200, 1)["p"].sel(scale=scale)
    assert p.dims == ("layer", "site")
    upper = np.triu_indices(5, 1)
    for layer in range(3):
        for site in "qkv":
            values = transform(data["cosine"].sel(layer=layer, site=site).values[upper])
            t = []
            for order in [np.arange(5), *permutations(200, 1)]:
                labels = np.array(CATEGORY)[order]
                same = labels[upper[0]] == labels[upper[1]]
                t.append(abs(stats.ttest_ind(values[same], values[~same]).statistic))
            expected = np.mean(np.array(t) >= t[0] - 1e-9)
            assert p.sel(layer=layer, site=site).item() == pytest.approx(expected)


def test_mantel_test_against_scipy_one_permutation_at_a_time():
    data = cosines()
    p = mantel_test(data, 200, 2)["p"]
    upper = np.triu_indices(5, 1)
    for layer in range(3):
        for pair in ("q-k", "q-v", "k-v"):
            a, b = (data["cosine"].sel(layer=layer, site=s).values for s in pair.split("-"))
            r = [
                abs(stats.pearsonr(a[upper], b[np.ix_(order, order)][upper])[0])
                for order in [np.arange(5), *permutations(200, 2)]
            ]
            expected = np.mean(np.array(r) >= r[0] - 1e-9)
            assert p.sel(layer=layer, pair=pair).item() == pytest.approx(expected)


def test_the_tests_find_what_is_there_and_nothing_else():
    """Real clusters are found; in noise, small p are as rare as they should be."""
    random = np.random.default_rng(0)
    category = np.repeat(["a", "b", "c"], 6)
    centres = np.repeat(random.normal(size=(3, 40)), 6, axis=0)
    found, noise = [], []
    for trial in range(40):
        vectors = random.normal(size=(2, 18, 40))
        for scale, results in ((1.0, found), (0.0, noise)):
            x = vectors + scale * centres
            coordinates = {"word": np.arange(18).astype(str), "category": category}
            data = xr.Dataset(
                {"k": (("sequence", "d"), x[0]), "v": (("sequence", "d"), x[1])},
                {name: ("sequence", values) for name, values in coordinates.items()},
            )
            matrix = cosine_similarities(data, ["k", "v"]).expand_dims(layer=[0])
            results.append(
                [
                    selectivity_test(matrix, 199, trial)["p"].sel(scale="cosine").values[0, 0],
                    mantel_test(matrix, 199, trial)["p"].item(),
                ]
            )
    assert np.max(found) == pytest.approx(1 / 200)
    assert 0 < np.mean(np.array(noise) < 0.2) < 0.4


def two_texts(lengths=(3, 5)):
    """Activations of two texts at two sites."""
    position = np.concatenate([np.arange(n) for n in lengths])
    random = np.random.default_rng(0)
    sites = {site: (("token", "d"), random.normal(size=(len(position), 7))) for site in "ab"}
    text = np.array([f"t{i}" for i in range(len(position))], dtype=object)
    sequence = np.repeat(range(len(lengths)), lengths)
    coords = {"sequence": sequence, "position": position, "text": text}
    return xr.Dataset(sites, {name: ("token", values) for name, values in coords.items()})


def test_from_position():
    data = two_texts()
    assert from_position(data, 0).sizes["token"] == 8
    assert list(from_position(data, 2)["text"].values) == ["t2", "t5", "t6", "t7"]
    with pytest.raises(MicrotomeError, match="the longest sequence has 5 tokens"):
        from_position(data, 5)


def test_histograms_of_several_texts_take_a_position_together():
    data = two_texts()
    found = token_histograms(data, ["a", "b"], 11, 2.0)
    assert list(found["n"].sel(site="a").values) == [14, 14, 14, 7, 7]
    values = data["b"].values[[1, 4]]
    density, _ = np.histogram(values, np.linspace(-2, 2, 11), density=True)
    np.testing.assert_allclose(found["density"].sel(site="b", position=1), density)
    whole = site_histograms(data, ["a"], 11, 2.0)
    assert whole["beyond"].item() == pytest.approx((abs(data["a"].values) > 2).mean())


def test_values_on_an_edge_and_beyond():
    values = np.array([-1, -0.5, 0, 0.5, 1, 1.01], np.float32)
    density, beyond = histograms([values, values + 9], 5, 1.0)
    np.testing.assert_allclose(density[0], np.array([1, 1, 1, 2]) / 5 / 0.5)
    np.testing.assert_array_equal(density[1], 0)
    np.testing.assert_allclose(beyond, [1 / 6, 1])


@pytest.mark.parametrize("perplexity", [8, 30.0, 0])
def test_a_perplexity_that_the_tokens_do_not_allow_is_an_error(perplexity):
    with pytest.raises(MicrotomeError, match=r"perplexity: .* 8 tokens"):
        tsne(two_texts(), ["a"], perplexity, 0)


def test_tsne_is_the_same_in_every_run():
    first = tsne(two_texts(), ["a", "b"], 3, 0)
    xr.testing.assert_identical(first, tsne(two_texts(), ["a", "b"], 3, 0))
    assert first["embedding"].dims == ("site", "token", "component")
