"""Similarities of hidden states against full forwards of the Hugging Face model, and scipy."""

from itertools import combinations, permutations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import build
from hooked import load
from scipy import stats
from studied import by_layer, layer_files, product, study
from torch.nn.functional import cosine_similarity
from transformers import AutoConfig, AutoTokenizer

from microtome.errors import MicrotomeError
from microtome.models.fetch import fetch
from microtome.models.sources import Folder
from microtome.statistics.correlation import rank_correlation
from microtome.statistics.jackknife import correlation_interval, standard_error
from microtome.statistics.similarity import mean_products
from microtome.store.datasets import open_layer
from microtome.texts.stimuli import Stimulus, read_set
from microtome.texts.tokens import token_table
from studies.hidden_state_similarity import captions

ROOT = Path(__file__).parents[2]
STUDY = "hidden_state_similarity"
#: Two texts of unequal length, long enough for three blocks of tokens.
TEXTS = [
    "Only a text that is long enough has as many blocks of tokens as an interval wants to have.",
    "And another one, so that there are tokens of two texts.",
]


@pytest.fixture(scope="module", params=["gpt2", "llama", "smollm2"])
def model(request, tmp_path_factory, gpt2_tokenizer):
    """GPT-2 and Llama of random weights with GPT-2's real tokenizer, and SmolLM2."""
    if request.param == "smollm2":
        return request.getfixturevalue("smollm2")
    folder = tmp_path_factory.mktemp(request.param)
    origin = build(folder / "origin", request.param, vocab_size=50257)
    AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(origin)
    fetch(Folder(origin), folder / "checkpoint")
    return folder / "checkpoint"


@pytest.fixture(scope="module")
def inputs(model, tmp_path_factory):
    """What the statistics take, of the sentence and of two texts: resid_pre and ln_final."""
    table = token_table([Stimulus(text) for text in (penguins(), *TEXTS)], model)
    n_layers = AutoConfig.from_pretrained(model).num_hidden_layers
    *layers, last = layer_files(
        tmp_path_factory.mktemp("sweep"), model, table, ["resid_pre"], range(n_layers), ["ln_final"]
    )
    entered = by_layer(layers, lambda section: section[["resid_pre"]])["resid_pre"]
    with open_layer(last) as section:
        final = section["ln_final"].load()
    first = final["sequence"].values == 0
    return {
        name: (entered.isel(token=kept), final.isel(token=kept))
        for name, kept in (("sentence", first), ("texts", ~first))
    }


def penguins():
    return read_set(ROOT / "stimuli" / f"{study(STUDY)['stimuli']}.yaml").stimuli[0].text


@pytest.fixture(scope="module")
def expected(model):
    """Hidden states of the sentence and of each text, (hidden, token, d_model), float64."""
    network, tokenizer = load(model), AutoTokenizer.from_pretrained(model)

    def states(text):
        with torch.no_grad():
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            output = network(ids, output_hidden_states=True)
        return torch.stack([state[0] for state in output.hidden_states]).double()

    return SimpleNamespace(sentence=states(penguins()), texts=[states(text) for text in TEXTS])


def made(name, *datasets, **options):
    """A statistic of the study, with the options of study.yaml unless others are given."""
    entry = study(STUDY)["statistics"][name] | options
    chosen = {k: v for k, v in entry.items() if k not in ("use", "stimuli")}
    return product(STUDY, "statistics", name)(*datasets, **chosen)


def test_descriptives_of_several_texts(inputs, expected):
    found = made("descriptives", *inputs["texts"])
    states = torch.cat(expected.texts, dim=1)
    for name, values in (
        ("mean", states.mean(-1)),
        ("mean_absolute", states.abs().mean(-1)),
        ("sd", states.std(-1)),
    ):
        assert found[name].dims == ("hidden", "token")
        np.testing.assert_allclose(found[name].values, values, rtol=1e-5, atol=1e-7)
    assert found["hidden"].values.tolist()[:2] == ["Emb", "L0"]


def test_distances_are_of_the_hidden_states_that_are_compared(inputs, expected):
    similarity = made("layer_similarity", *inputs["sentence"])
    distance = made("layer_distances", similarity)["distance"]
    n = len(expected.sentence)
    assert distance.values.tolist() == [[abs(i - j) for j in range(n)] for i in range(n)]
    assert distance["other"].values.tolist() == similarity["hidden"].values.tolist()


def test_similarity_falls_with_distance_as_scipy_says(inputs, expected):
    found = made("distance_correlation", *inputs["sentence"])
    states = expected.sentence
    n, n_tokens = states.shape[:2]

    def rho(token, left_out=None):
        pairs = [(a, b) for a, b in combinations(range(n), 2) if left_out not in (a, b)]
        first, second = np.transpose(pairs)
        cosine = cosine_similarity(states[first, token], states[second, token], dim=-1)
        return stats.spearmanr(cosine, second - first).statistic

    rhos = np.array([rho(token) for token in range(n_tokens)])
    np.testing.assert_allclose(found["rho"].values, rhos, rtol=1e-5)
    for token in (0, n_tokens - 1):
        z = np.arctanh([rho(token, left_out) for left_out in range(n)])
        half = stats.norm.ppf(0.975) * np.sqrt((n - 1) * np.var(z))
        ends = np.tanh([np.arctanh(rhos[token]) - half, np.arctanh(rhos[token]) + half])
        interval = [found[end].values[token] for end in ("low", "high")]
        np.testing.assert_allclose(interval, ends, rtol=1e-5)
        last = found["without_last"].values[token]
        assert last == pytest.approx(np.tanh(z[-1]), rel=1e-5)
    interval = stats.ttest_1samp(rhos[1:], 0).confidence_interval(0.95)
    assert found["mean"].item() == pytest.approx(rhos[1:].mean(), rel=1e-5)
    assert found["mean_low"].item() == pytest.approx(interval.low, rel=1e-5)
    assert found["mean_high"].item() == pytest.approx(interval.high, rel=1e-5)


def test_similarities_without_what_tokens_share(inputs, expected):
    found = made("similarity_controls", *inputs["texts"])
    for place, states in enumerate(zip(*expected.texts, strict=True)):
        whole = torch.cat([state[1:] for state in states])
        kept = whole.square().mean(0).argsort()[:-3]
        squares = whole.square().mean(0)
        wanted = {
            "within": within(states),
            "across": np.mean([cosine_similarity(a, states[1][1:]) for a in states[0][1:]]),
            "without_largest": within([state[:, kept] for state in states]),
            "centred": within([state - whole.mean(0) for state in states]),
            "with_first": np.concatenate([cosine_similarity(s[0], s[1:]) for s in states]).mean(),
            "largest_share": 1 - (squares[kept].sum() / squares.sum()).item(),
        }
        for name, value in wanted.items():
            assert found[name].values[place] == pytest.approx(value, rel=1e-5, abs=1e-7), name


def within(states):
    """The mean cosine of two tokens of one text, its first left out."""
    pairs = [cosine_similarity(a, b, dim=0) for s in states for a, b in combinations(s[1:], 2)]
    return torch.stack(pairs).mean().item()


def test_permuted_dimensions_are_those_of_all_orders():
    """Of two tokens of five dimensions, in all 120 orders of one of them."""
    vectors = np.random.default_rng(0).normal(0.5, 1, (3, 5)).astype(np.float32)
    found = made("similarity_controls", *crafted(vectors[None]), n_dimensions=1)
    first, second = (v / np.linalg.norm(v) for v in vectors[1:].astype(np.float64))
    cosines = [first[list(order)] @ second for order in permutations(range(5))]
    for values in (found["permuted"].values, found["permuted_sd"].values):
        assert len(values) == 2  # what enters the block, and the final norm's output
    assert found["permuted"].values[0] == pytest.approx(np.mean(cosines))
    assert found["permuted_sd"].values[0] == pytest.approx(np.std(cosines))
    assert np.isnan(found["across"].values).all()


def crafted(texts):
    """`resid_pre` and `ln_final` of a model of one block, with the vectors of some texts."""
    lengths = [len(text) for text in texts]
    columns = {
        "sequence": np.repeat(np.arange(len(texts)), lengths),
        "position": np.concatenate([np.arange(n) for n in lengths]),
        "token_id": np.arange(sum(lengths)),
        "text": np.array(["t"] * sum(lengths)),
    }
    coordinates = {name: ("token", column) for name, column in columns.items()}
    vectors = np.concatenate(texts).astype(np.float32)
    final = xr.DataArray(vectors, coordinates, ("token", "d_model"))
    return final.expand_dims(layer=[0]), final


def test_layer_descriptives(inputs, expected):
    descriptives = made("descriptives", *inputs["texts"])
    found = made("layer_descriptives", descriptives, block=4)
    states = torch.cat([state[:, 1:] for state in expected.texts], dim=1)
    mean, sd = states.mean(-1).numpy(), states.std(-1).numpy()
    l1 = states.abs().mean(-1).numpy()
    for name, values in (("mean", mean), ("mean_absolute", l1), ("sd", sd), ("ratio", l1 / sd)):
        np.testing.assert_allclose(found[name].values, values.mean(1), rtol=1e-5, atol=1e-7)
    first = torch.stack([state[:, 0].std(-1) for state in expected.texts]).mean(0)
    np.testing.assert_allclose(found["sd_first"].values, first, rtol=1e-5)
    lengths = [state.shape[1] - 1 for state in expected.texts]
    blocks = np.array([(text, i // 4) for text, n in enumerate(lengths) for i in range(n)])
    distinct = sorted(set(map(tuple, blocks)))
    for hidden in (1, len(mean) - 1):
        rho = stats.spearmanr(mean[hidden], sd[hidden]).statistic
        assert found["rho"].values[hidden] == pytest.approx(rho, rel=1e-5)
        kept = [(blocks != block).any(axis=1) for block in distinct]
        z = np.arctanh([stats.spearmanr(mean[hidden, k], sd[hidden, k]).statistic for k in kept])
        half = stats.norm.ppf(0.975) * np.sqrt((len(z) - 1) * np.var(z))
        assert found["low"].values[hidden] == pytest.approx(
            np.tanh(np.arctanh(rho) - half), rel=1e-5
        )


def test_mean_products_are_those_of_all_pairs():
    rows, text = np.random.default_rng(0).normal(size=(7, 3)), np.array([0, 0, 0, 2, 2, 5, 0])
    products = {True: [], False: []}
    for a, b in combinations(range(7), 2):
        products[bool(text[a] == text[b])].append(rows[a] @ rows[b])
    assert mean_products(rows, text) == pytest.approx([np.mean(p) for p in products.values()])
    assert np.isnan(mean_products(rows[:1], text[:1])).all()


def test_rank_correlation_of_ties_and_of_equal_values():
    x, y = [[1.0, 2, 2, 5], [1, 1, 1, 1]], [[3.0, 1, 4, 4]] * 2
    found = rank_correlation(np.array(x), np.array(y))
    assert found[0] == pytest.approx(stats.spearmanr(x[0], y[0]).statistic)
    assert np.isnan(found[1])


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=9)
    without = np.array([np.delete(values, i).mean() for i in range(9)])
    assert standard_error(without) == pytest.approx(stats.sem(values))
    low, high = correlation_interval(np.array(0.5), np.array([0.5, 0.5, 0.5]), 0.05)
    assert (low, high) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("distance_correlation", {"first_token": 2}, "first_token 2: the text has 3 tokens"),
        ("similarity_controls", {"first_token": 2}, "first_token 2: no text has two tokens"),
        ("similarity_controls", {"n_dimensions": 4}, "n_dimensions 4: the model has 4 dimensions"),
        ("layer_descriptives", {"block": 2}, "block 2: the texts have 1 blocks"),
    ],
)
def test_what_cannot_be_computed_is_told(name, options, says):
    inputs = crafted([np.eye(3, 4)])
    if name == "layer_descriptives":
        inputs = [made("descriptives", *inputs)]
    if name == "similarity_controls":
        options = {"n_dimensions": 1} | options
    with pytest.raises(MicrotomeError, match=says):
        made(name, *inputs, **options)


def figure(name, *datasets, **options):
    entry = study(STUDY)["figures"][name] | options
    entry.pop("use", None)
    return product(STUDY, "figures", name)(*datasets, **entry)


def test_figures_draw_what_the_statistics_say(inputs):
    descriptives = made("descriptives", *inputs["texts"])
    kept = descriptives.isel(token=descriptives["position"].values > 0)
    a, b, c, d, _ = figure("descriptives", descriptives).axes
    for axes, name in ((a, "mean"), (b, "mean_absolute"), (c, "sd")):
        drawn = [line.get_ydata() for line in axes.lines[: descriptives.sizes["hidden"]]]
        np.testing.assert_array_equal(drawn, kept[name].values)
    points = [line.get_xydata() for line in d.lines]
    np.testing.assert_array_equal(points, np.stack([kept["mean"], kept["sd"]], axis=-1))

    token = made("token_descriptives", *inputs["sentence"])
    axes, _ = figure("token_deviations", token, limits=(0, 2)).axes
    image = axes.images[0]
    np.testing.assert_array_equal(image.get_array(), token["sd"].values)
    assert image.get_clim() == (0, pytest.approx(2 * np.median(token["sd"].values, axis=1).max()))
    axes, _ = figure("token_deviations", token, limits=(0, 15), relative=False).axes
    assert axes.images[0].get_clim() == (0, 15)

    similarity = made("layer_similarity", *inputs["sentence"])
    distances = made("layer_distances", similarity)
    axes, _ = figure("layer_distances", distances).axes
    np.testing.assert_array_equal(axes.images[0].get_array(), distances["distance"].values)
    *panels, bar = figure("similarity_by_distance", similarity, distances).axes
    assert bar.get_ylabel() == "Later hidden layer"
    n, cosines = similarity.sizes["hidden"], similarity["cosine"].values
    pairs = list(combinations(range(n), 2))
    for axes, matrix in zip(panels, cosines, strict=True):
        (points,) = axes.collections
        drawn = [(b - a, matrix[a, b]) for a, b in pairs]
        np.testing.assert_array_equal(points.get_offsets(), drawn)
        colours = {tuple(c) for c in points.get_facecolors()[[b == n - 1 for _, b in pairs]]}
        assert len(colours) == 1

    profile = made("token_profile", *inputs["sentence"], token=-1)
    left, middle, right = figure("token_profile", profile).axes
    assert middle.get_title().startswith("B) Activation means\nfor token")
    for axes, name in ((middle, "mean"), (right, "variance")):
        drawn = axes.collections[0].get_offsets()[:, 1]
        np.testing.assert_array_equal(drawn, profile[name].values)
    assert len(left.lines) == n

    controls = made("similarity_controls", *inputs["texts"])
    (axes,) = figure("similarity_controls", controls).axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), controls["within"].values)
    assert len(axes.lines) == 6
    alone = controls.assign(across=controls["across"] * np.nan)
    assert len(figure("similarity_controls", alone).axes[0].lines) == 5


def test_tables_have_a_row_for_each_token_or_hidden_state(inputs):
    correlation = made("distance_correlation", *inputs["sentence"])
    table = product(STUDY, "tables", "distance_correlation")(correlation)
    assert table.frame["rho"].tolist() == correlation["rho"].values.tolist()
    assert f"mean {correlation['mean'].item():.3f} from token 1 on, 95% interval" in table.text
    descriptives = made("descriptives", *inputs["texts"])
    for name, dataset in (
        ("similarity_controls", made("similarity_controls", *inputs["texts"])),
        ("layer_descriptives", made("layer_descriptives", descriptives, block=4)),
    ):
        frame = product(STUDY, "tables", name)(dataset)
        assert frame["hidden"].tolist() == dataset["hidden"].values.tolist()
        assert list(frame.columns) == ["hidden", *dataset.data_vars]


def test_captions_say_what_is_plain():
    matrix = [[1.0, 0.5, 0.25], [0.5, 1.0, 0.75], [0.25, 0.75, 1.0]]
    hidden = ["Emb", "L0", "L1"]
    similarity = xr.Dataset(
        {"cosine": (("token", "hidden", "other"), [matrix])},
        {"hidden": hidden, "other": hidden, "text": ("token", [" a"])},
    )
    distances = made("layer_distances", similarity)
    assert captions.layer_distances(distances) == "The largest distance is 2 blocks."
    assert captions.similarity_by_distance(similarity, distances) == (
        "Hidden states one block apart have a mean similarity of 0.62 (“␣a”)."
    )
    sd = xr.Dataset(
        {"sd": (("hidden", "token"), [[1.0, 2, 3], [9, 2, 4], [5, 5, 5]])}, {"hidden": hidden}
    )
    assert captions.token_deviations(sd) == (
        "The first token's standard deviation is largest in L0 (9.00), that of the others in L1 "
        "(5.00)."
    )
    values = {"mean": [-1.0, 0, 2], "mean_absolute": [1.0, 5, 2], "sd": [1.0, 2, 3]}
    columns = {
        name: (("hidden", "token"), np.transpose([[9.0] * 3, v])) for name, v in values.items()
    }
    descriptives = xr.Dataset(columns, {"hidden": hidden, "position": ("token", [0, 1])})
    assert captions.descriptives(descriptives, first_token=1) == (
        "On average, the L1 mean is largest in L0 (5.00), the standard deviation in L1 (3.00); the "
        "mean is −1.00 to 2.00."
    )
