"""Streamed statistics, whole and merged from shards, against numpy and scipy on all values."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import xarray as xr
from scipy import special, stats

from microtome.errors import MicrotomeError
from microtome.statistics.attention import Entropies, Patterns
from microtome.statistics.covariances import Covariances, spaces
from microtome.statistics.distributions import Histograms
from microtome.statistics.grouped import TokenMeans
from microtome.statistics.highest import HighestTokens
from microtome.statistics.lens import LensPredictions, Losses
from microtome.statistics.moments import Moments
from microtome.statistics.quantiles import Quantiles
from microtome.statistics.streamed import Streamed
from microtome.store.datasets import open_file, read_dataset, write_dataset
from microtome.store.layers import Section
from microtome.sweeps.batches import batched

LAYERS, D_VOCAB = (1, 4), 40
WIDTHS = {"q": (2, 3), "resid_post": (5,), "post": (4,)}
#: Tokens of each text; where there are five shards, the first has one token alone.
LENGTHS = [1, 3, 2, 6, 4, 3, 2, 5, 1]
SHARDS = {1: [9], 2: [5, 4], 5: [1, 2, 2, 2, 2]}


class Tokenizer:
    """As many tokens as there are capital letters, and more."""

    def decode(self, ids):
        return "".join(chr(65 + i) for i in np.ravel(ids).tolist())

    def encode(self, text, **options):
        return [ord(letter) - 65 for letter in text]


def corpus():
    """A token table, and the activations and log-probabilities of every layer, (token, …)."""
    random = np.random.default_rng(0)
    n = sum(LENGTHS)
    ids = random.integers(0, 9, n)
    columns = {
        "sequence": np.repeat(np.arange(len(LENGTHS)), LENGTHS),
        "position": np.concatenate([np.arange(length) for length in LENGTHS]),
        "token_id": ids,
        "text": np.array([Tokenizer().decode(i) for i in ids], dtype=object),
    }
    values, predicted = {}, {}
    for layer in LAYERS:
        for site, shape in WIDTHS.items():
            found = random.standard_normal((n, *shape)).astype(np.float32) ** 3 + layer
            values[layer, site] = found
        values[layer, "post"][:, 2] = 0.1  # equal everywhere
        values[layer, "post"][:, 3] = np.round(values[layer, "post"][:, 3])  # often equal
        scores = random.standard_normal((n, 2, max(LENGTHS))).astype(np.float32)
        beyond = np.arange(max(LENGTHS)) > columns["position"][:, None, None]
        scores = np.where(beyond, np.nan, scores)
        values[layer, "scores"] = scores
        shares = special.softmax(np.where(beyond, -np.inf, scores), axis=-1)
        values[layer, "pattern"] = np.where(beyond, np.nan, shares).astype(np.float32)
        logits = random.normal(0, 3, (n, D_VOCAB)).astype(np.float32)
        predicted[layer] = special.log_softmax(logits, axis=-1)
    return columns, values, predicted


COLUMNS, VALUES, PREDICTED = corpus()


def table(columns):
    return xr.Dataset(coords={name: ("token", values) for name, values in columns.items()})


class Lens:
    """Predictions of a shard that begins at some row."""

    d_vocab = D_VOCAB

    def __init__(self, start):
        self.start = start

    def __call__(self, section, site):
        assert list(section.values) == [site] == ["resid_post"]
        for row in section.rows.tolist():
            yield row, PREDICTED[section.layer][self.start + row]


class Shard(NamedTuple):
    tokens: xr.Dataset
    lens: Lens
    rows: slice


def shards(n: int) -> list[Shard]:
    ends = np.cumsum([0, *LENGTHS])[np.cumsum([0, *SHARDS[n]])]
    found = []
    for first, last in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        columns = {name: values[first:last] for name, values in COLUMNS.items()}
        found.append(Shard(table(columns), Lens(first), slice(first, last)))
    return found


def sections(shard: Shard):
    """As a sweep yields them: batches of one length, keys as many as the longest text has."""
    columns = {name: column.values for name, column in shard.tokens.coords.items()}
    batches = batched(columns, 6)
    longest = max(batch.ids.shape[1] for batch in batches)
    for layer in LAYERS:
        for batch in batches:
            rows = np.sort(batch.rows.ravel())
            values = {
                site: of_layer[shard.rows][rows]
                for (of, site), of_layer in VALUES.items()
                if of == layer
            }
            for site in ("scores", "pattern"):
                values[site] = values[site][..., :longest]
            yield Section(layer, rows, values)


def made(empty: Callable[..., Streamed], n: int, folder: Path) -> xr.Dataset:
    """A statistic of n shards, each from the file of its state, or of one whole sweep."""
    write_dataset(table(COLUMNS), folder / "tokens.h5")
    whole = empty(open_file(folder / "tokens.h5"), None)
    for number, shard in enumerate(shards(n)):
        own = empty(shard.tokens, shard.lens)
        for section in sections(shard):
            own.add(section)
        if n == 1:
            return own.finish()
        write_dataset(own.state(), folder / f"{number:05d}.h5")
        whole.merge(whole.from_state(read_dataset(folder / f"{number:05d}.h5")))
    return whole.finish()


@pytest.fixture(params=SHARDS)
def find(request, tmp_path):
    """Make a statistic of so many shards; the same bytes come twice."""

    def found(empty):
        for number in range(2):
            folder = tmp_path / str(number)
            folder.mkdir()
            write_dataset(made(empty, request.param, folder), folder / "made.h5")
        first, second = (tmp_path / str(number) / "made.h5" for number in range(2))
        assert first.read_bytes() == second.read_bytes()
        return read_dataset(first)

    return found


def all_values(layer, site):
    values = VALUES[layer, site].astype(np.float64).ravel()
    return values[~np.isnan(values)]


def test_moments(find):
    sites = ["resid_post", "q", "pattern"]
    found = find(lambda tokens, lens: Moments(sites))
    for layer in LAYERS:
        for site in sites:
            own, values = found.sel(layer=layer, site=site), all_values(layer, site)
            assert own["n"] == values.size
            assert (own["smallest"], own["largest"]) == (values.min(), values.max())
            expected = values.mean(), values.std(), stats.skew(values), stats.kurtosis(values) + 3
            names = ("mean", "sd", "skewness", "kurtosis")
            for name, number in zip(names, expected, strict=True):
                assert own[name].item() == pytest.approx(number, rel=1e-12, abs=1e-13), name


def test_equal_values_have_no_shape(find):
    found = find(lambda tokens, lens: Moments(["post"]))
    constant = Moments(["post"])
    for layer in LAYERS:
        constant.add(Section(layer, np.arange(3), {"post": np.full((3, 4), 0.1, np.float32)}))
    assert np.isnan(constant.finish()["skewness"]).all()
    assert np.isfinite(found["skewness"]).all()


def test_histograms(find):
    found = find(lambda tokens, lens: Histograms(["q", "scores"], 7, 2.0))
    for layer in LAYERS:
        for site in ("q", "scores"):
            own, values = found.sel(layer=layer, site=site), all_values(layer, site)
            expected = np.histogram(values, 6, (-2, 2), density=True)[0]
            np.testing.assert_allclose(own["density"], expected, rtol=1e-12)
            assert own["beyond"].item() == pytest.approx((abs(values) > 2).mean(), rel=1e-12)


def test_quantiles(find):
    shares = (0.0, 0.001, 0.1, 0.25, 0.5, 0.77, 0.99, 1.0)
    found = find(lambda tokens, lens: Quantiles(["post", "scores"], shares))
    assert found["share"].values.tolist() == list(shares)
    for layer in LAYERS:
        for site in ("post", "scores"):
            own, values = found.sel(layer=layer, site=site), all_values(layer, site)
            expected = np.quantile(values, shares, method="lower")
            np.testing.assert_allclose(own["quantile"], expected, rtol=1 / 256, atol=0)
            assert own["n"] == values.size


def test_quantiles_of_numbers_of_any_size():
    random = np.random.default_rng(1)
    size = random.uniform(-37, 38, 5000).astype(np.float32)
    values = (np.sign(size) * 10.0 ** np.abs(size)).astype(np.float32)
    values[:100] = 0.0
    statistic = Quantiles(["post"], (0.0, 0.3, 0.49, 0.51, 0.9, 1.0))
    statistic.add(Section(0, np.arange(50), {"post": values.reshape(50, 100)}))
    found = statistic.finish()["quantile"].values[0, 0]
    expected = np.quantile(values.astype(float), (0.0, 0.3, 0.49, 0.51, 0.9, 1.0), method="lower")
    np.testing.assert_allclose(found, expected, rtol=1 / 256)


def test_covariances(find):
    sites = ["q", "resid_post"]
    found = find(lambda tokens, lens: Covariances(sites))
    assert found["site"].values.tolist() == ["q"] * 6 + ["resid_post"] * 5
    for layer in LAYERS:
        own = found.sel(layer=layer)
        values = [VALUES[layer, s].reshape(sum(LENGTHS), -1) for s in sites]
        joint = np.concatenate(values, axis=1).astype(np.float64)
        expected = np.cov(joint.T, ddof=0)
        np.testing.assert_allclose(own["covariance"], expected, rtol=0, atol=1e-12 * expected.max())
        np.testing.assert_array_equal(own["covariance"], own["covariance"].values.T)
        np.testing.assert_allclose(own["mean"], joint.mean(0), rtol=1e-12)
        assert own["n"] == sum(LENGTHS)
        shapes = spaces(found).sel(layer=layer)
        assert shapes["pair"].values.tolist() == ["q-resid_post"]
        kernels = []
        for site, of_site in zip(sites, values, strict=True):
            centred = of_site.astype(float) - of_site.astype(float).mean(0)
            variances = np.linalg.svd(centred, compute_uv=False) ** 2
            expected = variances.sum() ** 2 / (variances**2).sum()
            assert shapes["participation_ratio"].sel(site=site).item() == pytest.approx(expected)
            kernels.append((centred @ centred.T).ravel())
        # As the correlation of all inner products of two tokens: RSA.
        assert shapes["cka"].item() == pytest.approx(np.corrcoef(*kernels)[0, 1])


def test_covariances_of_later_tokens(find):
    later = COLUMNS["position"] >= 1
    found = find(lambda tokens, lens: Covariances(["post"]).from_token(tokens, 1))
    for layer in LAYERS:
        own = found.sel(layer=layer)
        expected = np.cov(VALUES[layer, "post"][later].astype(np.float64).T, ddof=0)
        np.testing.assert_allclose(own["covariance"], expected, rtol=0, atol=1e-12 * expected.max())
        assert own["n"] == later.sum()


def test_highest_of_later_tokens(find):
    later = COLUMNS["position"] >= 1
    found = find(
        lambda tokens, lens: HighestTokens(["post"], tokens, Tokenizer(), 1, 2).from_token(
            tokens, 1
        )
    )
    assert found["position"].values.min() == 1
    for layer in LAYERS:
        own = found["post"].sel(layer=layer, rank=1)
        np.testing.assert_array_equal(own, VALUES[layer, "post"][later].max(0))


def test_a_first_token_that_no_text_has_is_refused():
    (shard, *_) = shards(5)  # of one token
    statistic = Covariances(["post"]).from_token(shard.tokens, 1)
    for section in sections(shard):
        statistic.add(section)
    with pytest.raises(MicrotomeError, match="no text has a token there"):
        statistic.finish()


def test_highest_tokens(find):
    found = find(lambda tokens, lens: HighestTokens(["q", "post"], tokens, Tokenizer(), 4, 2))
    assert found["q"].dims == ("layer", "n_heads", "d_head", "rank")
    assert found["post_context"].dims == ("layer", "d_mlp", "rank")
    assert (
        np.unique(found["sequence"].values * 100 + found["position"].values).size
        == (found.sizes["context"])
    )
    letters = "".join(COLUMNS["text"])
    for layer in LAYERS:
        for site in ("q", "post"):
            values = VALUES[layer, site].reshape(sum(LENGTHS), -1)
            own = found.sel(layer=layer)[site].values.reshape(-1, 4)
            context = found.sel(layer=layer)[f"{site}_context"].values.reshape(-1, 4)
            order = np.argsort(-values, axis=0, kind="stable")[:4].T  # of equal ones the first
            np.testing.assert_array_equal(own, np.take_along_axis(values.T, order, axis=1))
            for row, place in zip(order.ravel(), context.ravel(), strict=True):
                told = found.isel(context=place)
                sequence, position = COLUMNS["sequence"][row], COLUMNS["position"][row]
                assert (told["sequence"], told["position"]) == (sequence, position)
                text = [i for i in range(len(letters)) if COLUMNS["sequence"][i] == sequence]
                first, last = max(text[0], row - 2), min(text[-1], row + 2)
                assert told["text"].item() == letters[row]
                assert told["before"].item() == letters[first:row]
                assert told["after"].item() == letters[row + 1 : last + 1]
                assert told["token_id"].item() == COLUMNS["token_id"][row]


def test_a_corpus_of_few_tokens_fills_few_ranks():
    (shard, *_) = shards(5)  # of one token
    statistic = HighestTokens(["post"], shard.tokens, Tokenizer(), 3, 2)
    for section in sections(shard):
        statistic.add(section)
    found = statistic.finish()
    np.testing.assert_array_equal(np.isnan(found["post"][0, 0]), [False, True, True])
    np.testing.assert_array_equal(found["post_context"][0, 0], [0, -1, -1])
    assert (found["before"].item(), found["after"].item()) == ("", "")


def test_token_means(find):
    found = find(lambda tokens, lens: TokenMeans(["q", "resid_post"], tokens))
    ids, counts = np.unique(COLUMNS["token_id"], return_counts=True)
    assert found["token_id"].values.tolist() == ids.tolist()
    assert found["n"].values.tolist() == counts.tolist()
    assert found["q"].dims == ("layer", "token_id", "n_heads", "d_head")
    for layer in LAYERS:
        for site in ("q", "resid_post"):
            for token_id in ids:
                rows = VALUES[layer, site][COLUMNS["token_id"] == token_id].astype(np.float64)
                own = found[site].sel(layer=layer, token_id=token_id)
                np.testing.assert_allclose(own, rows.mean(0), rtol=1e-12)


def test_losses(find):
    found = find(lambda tokens, lens: Losses(lens, tokens, site="resid_post"))
    follows = np.append(np.diff(COLUMNS["sequence"]) == 0, False)
    following = np.roll(COLUMNS["token_id"], -1)
    for layer in LAYERS:
        own, predicted = found.sel(layer=layer), PREDICTED[layer].astype(np.float64)
        entropy = -(np.exp(predicted) * predicted).sum(-1)
        assert own["entropy"].item() == pytest.approx(entropy.mean(), rel=1e-6)  # of float32
        loss = -predicted[follows, following[follows]].mean()
        assert own["loss"].item() == pytest.approx(loss, rel=1e-12)
        assert (own["n"], own["n_followed"]) == (sum(LENGTHS), follows.sum())


def test_losses_of_some_tokens():
    """Rows that are kept are counted on their own; the next token need not be kept."""
    rows = np.where(COLUMNS["position"] == 1, np.cumsum(COLUMNS["position"] == 1) - 1, -1)
    statistic = Losses(Lens(0), table(COLUMNS | {"row": rows}), site="resid_post")
    n = rows.max() + 1
    statistic.add(Section(1, np.arange(n), {"resid_post": np.zeros((n, 1))}))
    found = statistic.finish()
    second = np.flatnonzero(COLUMNS["position"] == 1)
    followed = [row for row in second if COLUMNS["sequence"][row + 1] == COLUMNS["sequence"][row]]
    losses = [
        -PREDICTED[1][second.tolist().index(row), COLUMNS["token_id"][row + 1]] for row in followed
    ]
    assert found["n_followed"] == len(followed) < n
    assert found["loss"].item() == pytest.approx(np.mean(losses), rel=1e-6)


def test_predictions_of_every_row(find):
    found = find(
        lambda tokens, lens: LensPredictions(lens, tokens, Tokenizer(), site="resid_post", top=2)
    )
    for layer in LAYERS:
        order = np.argsort(-PREDICTED[layer], axis=-1)[:, :2]
        np.testing.assert_array_equal(found["top_token_id"].sel(layer=layer), order)
    assert found["position"].values.tolist() == COLUMNS["position"].tolist()


def test_entropies_and_patterns(find):
    found = find(lambda tokens, lens: Patterns(["scores", "pattern"], tokens, 4))
    assert found["n"].values.tolist() == [sum(n > i for n in LENGTHS) for i in range(4)]
    assert found["pattern"].shape == (2, 2, 4, 4)
    for layer in LAYERS:
        for position in range(4):
            here = COLUMNS["position"] == position
            for site in ("scores", "pattern"):
                values = VALUES[layer, site][here][..., :4].astype(np.float64)
                expected = np.full((2, 4), np.nan)
                expected[:, : position + 1] = values[..., : position + 1].mean(0)
                own = found[site].sel(layer=layer, position=position)
                np.testing.assert_allclose(own, expected, rtol=1e-12)


def test_entropies(find):
    found = find(lambda tokens, lens: Entropies(tokens))
    for layer in LAYERS:
        pattern = np.nan_to_num(VALUES[layer, "pattern"]).astype(np.float64)
        entropy = stats.entropy(pattern, axis=-1)
        for position in range(6):
            expected = entropy[COLUMNS["position"] == position].mean(0)
            own = found["entropy"].sel(layer=layer, position=position)
            np.testing.assert_allclose(own, expected, rtol=1e-12, atol=1e-15)


def test_a_shard_without_rows_adds_nothing():
    statistic, other = Moments(["post"]), Moments(["post"])
    statistic.add(Section(1, np.arange(2), {"post": np.ones((2, 4), np.float32)}))
    other.add(Section(1, np.arange(0), {"post": np.ones((0, 4), np.float32)}))
    statistic.merge(other.from_state(other.state()))
    assert statistic.finish()["n"].item() == 8


def test_merging_leaves_the_other_one_as_it_is():
    shard = shards(1)[0]
    one, other = TokenMeans(["q"], shard.tokens), TokenMeans(["q"], shard.tokens)
    for section in sections(shard):
        other.add(section)
    before = other.state()
    one.merge(other)
    one.merge(other)
    xr.testing.assert_identical(other.state(), before)
    assert (one.finish()["n"] == 2 * other.finish()["n"]).all()
    xr.testing.assert_allclose(one.finish()["q"], other.finish()["q"], rtol=1e-12)


def test_layers_of_different_widths_make_no_dataset():
    statistic = Covariances(["post"])
    for layer, width in enumerate((3, 4)):
        values = np.ones((2, width), np.float32)
        statistic.add(Section(layer, np.arange(2), {"post": values}))
    with pytest.raises(MicrotomeError, match="choose those of one shape with `layers`"):
        statistic.finish()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_is_refused(wrong):
    values = np.ones((2, 4), np.float32)
    values[1, 2] = wrong
    with pytest.raises(MicrotomeError, match="layer 3, site post: NaN or infinite activations"):
        Moments(["post"]).add(Section(3, np.arange(2), {"post": values}))
