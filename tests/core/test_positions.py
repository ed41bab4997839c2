"""Rows by position, where all tokens of a text are there and where only some are kept."""

import numpy as np
import pytest
import xarray as xr

from microtome.errors import MicrotomeError
from microtome.statistics.distributions import token_histograms, token_profile
from microtome.statistics.norms import norm_histograms
from microtome.statistics.positions import (
    at_position,
    at_word,
    distinct,
    from_position,
    require_all_tokens,
)
from microtome.statistics.prediction import next_tokens
from microtome.statistics.regression import autoregression, regression
from microtome.statistics.selectivity import text_tuning, word_activations
from microtome.statistics.similarity import (
    cosine_similarities,
    layer_similarity,
    similarity_profile,
    token_similarity,
)

#: A template with tokens before and after the word, whose own tokens are marked.
TEXTS = [
    ("sun", ["The", " ", "sun*", " is", "</s>"]),
    ("moon", ["The", " ", "mo*", "on*", " is", "</s>"]),
    ("pear", ["The", " ", "p*", "ea*", "r*", " is", "</s>"]),
]


def section():
    """All tokens of the texts with random activations at the site `k`."""
    rows = [
        (number, place, token.rstrip("*"), token.endswith("*"), word)
        for number, (word, tokens) in enumerate(TEXTS)
        for place, token in enumerate(tokens)
    ]
    sequence, position, text, in_word, word = map(list, zip(*rows, strict=True))
    columns = {
        "sequence": np.array(sequence),
        "position": np.array(position),
        "token_id": np.array([hash_of(token) for token in text]),
        "text": np.array(text, dtype=object),
        "word": np.array(word, dtype=object),
        "category": np.array(word, dtype=object),
        "in_word": np.array(in_word, dtype=np.int8),
    }
    values = np.random.default_rng(0).normal(size=(len(rows), 4)).astype(np.float32)
    coordinates = {name: ("token", column) for name, column in columns.items()}
    return xr.Dataset({"k": (("token", "d"), values)}, coordinates, {"layer": 0})


def hash_of(token):
    return sum(map(ord, token))


def kept(data, *positions):
    """What a stimulus set that keeps some positions only leaves of a section."""
    sequence = data["sequence"].values
    length = np.bincount(sequence)[sequence]
    inside = data["in_word"].values == 1
    bounds = [np.flatnonzero(inside[sequence == number]) for number in np.unique(sequence)]
    columns = {
        "length": length,
        "word_start": np.array([bound[0] for bound in bounds])[sequence],
        "word_end": np.array([bound[-1] + 1 for bound in bounds])[sequence],
    }
    data = data.assign_coords({name: ("token", column) for name, column in columns.items()})
    place = data["position"].values
    wanted = np.array([position + length * (position < 0) for position in positions])
    return data.isel(token=(place == wanted).any(axis=0))


def averaged(data):
    """What a stimulus set that keeps the mean of each text leaves of a section."""
    last = kept(data, -1)
    return last.assign_coords(position=("token", np.full(last.sizes["token"], -1)))


@pytest.mark.parametrize("position", [1, 4, -1, -3])
def test_a_kept_token_is_found_by_its_position(position):
    data = section()
    found = at_position(kept(data, 1, 4, -1, -3), position)
    expected = [tokens[position].rstrip("*") for _, tokens in TEXTS]
    assert found["text"].values.tolist() == expected
    np.testing.assert_array_equal(found["k"].values, at_position(data, position)["k"].values)


def test_a_token_that_is_not_kept_is_not_one_that_the_text_lacks():
    with pytest.raises(MicrotomeError, match="position 3 of sequence 0: not among the tokens"):
        at_position(kept(section(), 1, -1), 3)
    with pytest.raises(MicrotomeError, match="sequence 0 has 5 tokens; correct the `token` option"):
        at_position(kept(section(), 1, -1), 5)


@pytest.mark.parametrize(
    "statistic",
    [
        lambda data: at_position(data, 1),
        lambda data: at_position(data, -1),
        lambda data: at_word(data, -1),
        lambda data: from_position(data, 1),
        lambda data: token_histograms(data, ["k"], 5, 1.0),
    ],
)
def test_a_mean_has_no_position(statistic):
    with pytest.raises(MicrotomeError, match="`tokens: mean`"):
        statistic(averaged(section()))


def test_from_position_counts_no_rows():
    found = from_position(kept(section(), 0, 4), 1)
    assert found["position"].values.tolist() == [4, 4, 4]
    with pytest.raises(MicrotomeError, match="longest sequence has 7 tokens, and none is kept"):
        from_position(kept(section(), 0, 4), 5)


@pytest.mark.parametrize(
    ("word_token", "expected"),
    [(-1, ["sun", "on", "r"]), (0, ["sun", "mo", "p"])],
)
def test_the_word_is_found_where_it_stands(word_token, expected):
    data = section()
    assert at_word(data, word_token)["text"].values.tolist() == expected
    partly = kept(data, 2, 3, 4)
    assert at_word(partly, word_token)["text"].values.tolist() == expected
    assert at_word(data)["text"].values.tolist() == ["sun", "on", "r"]


def test_a_word_that_is_too_short_is_an_error():
    with pytest.raises(MicrotomeError, match=r"the word 'sun' has 1 token; .*`word_token`"):
        at_word(section(), 1)
    with pytest.raises(MicrotomeError, match="position 4 of sequence 2: not among the tokens"):
        at_word(kept(section(), 2, 3), -1)
    with pytest.raises(MicrotomeError, match="have no words"):
        at_word(section().drop_vars("word"))


def test_cosines_are_those_of_the_words_own_tokens():
    data = section()
    found = cosine_similarities(at_word(data), ["k"])["cosine"].values[0]
    rows = [list(data["text"].values).index(text) for text in ("sun", "on", "r")]
    vectors = data["k"].values[rows].astype(float)
    norm = np.sqrt((vectors**2).sum(axis=1))
    np.testing.assert_allclose(found, vectors @ vectors.T / np.outer(norm, norm), rtol=1e-12)


def test_contexts_that_end_alike_are_distinct():
    data = section()
    assert distinct(data, -1)["word"].values.tolist() == ["sun", "moon", "pear"]
    with pytest.raises(MicrotomeError, match="distinct contexts: needs every token"):
        distinct(kept(data, -1), -1)


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        (0.0, ["sun"]),
        (1e-3, ["sun"]),  # texts in different batches
        (0.1, ["sun", "moon", "pear"]),  # in an encoder, a token has read all that follows
    ],
)
def test_contexts_that_begin_alike_are_one_unless_the_model_looks_ahead(noise, words):
    data = section()
    data["k"][:] = np.linspace(0.5, 1, data.sizes["d"])
    data["k"] += noise * data["sequence"]
    assert distinct(data, 1)["word"].values.tolist() == words
    assert distinct(data, -1)["word"].values.tolist() == ["sun", "moon", "pear"]


def states():
    """Two hidden states of one long text."""
    n = 40
    columns = {"sequence": np.zeros(n, int), "position": np.arange(n), "token_id": np.arange(n)}
    columns |= {"text": np.array(["t"] * n, dtype=object), "length": np.full(n, n)}
    values = np.random.default_rng(1).normal(size=(2, n, 3)).astype(np.float32)
    coordinates = {name: ("token", column) for name, column in columns.items()}
    return xr.DataArray(
        values, {"hidden": ["Emb", "L0"]} | coordinates, ("hidden", "token", "d_model")
    )


def norms(rows):
    data = states().isel(token=rows)
    values = np.abs(data.values[..., 0]) + 1
    coordinates = {name: data[name] for name in ("sequence", "position", "length")}
    return xr.Dataset({"log_norm": (("layer", "token"), values)}, {"layer": [0, 1]} | coordinates)


SOME = slice(None, None, 2)


@pytest.mark.parametrize(
    ("name", "statistic"),
    [
        ("layer_similarity", lambda: layer_similarity(states().isel(token=SOME), 4)),
        ("token_similarity", lambda: token_similarity(states().isel(token=SOME), 2)),
        ("similarity_profile", lambda: similarity_profile(states().isel(token=SOME), 1)),
        ("the regression", lambda: regression(norms(SOME).isel(layer=0), 2)),
        ("the regression", lambda: autoregression(norms(SOME), 2, 0.05)),
        ("word_activations", lambda: word_activations(kept(section(), 2, -1), "k")),
        (
            "text_tuning",
            lambda: text_tuning(
                kept(section(), -1), xr.Dataset(attrs={"layer": 0, "site": "k"}), "k"
            ),
        ),
        ("means", lambda: require_all_tokens(averaged(section()), "means")),
    ],
)
def test_what_needs_every_token_of_a_text_says_so(name, statistic):
    with pytest.raises(MicrotomeError, match=f"{name}.*: needs every token of a text"):
        statistic()


def test_all_tokens_may_come_with_their_length():
    require_all_tokens(states(), "all")
    require_all_tokens(section(), "all")
    assert len(regression(norms(slice(None)).isel(layer=0), 2)["term"]) == 3


def test_a_profile_is_of_the_token_it_names():
    partly = states().isel(token=SOME)
    np.testing.assert_array_equal(token_profile(partly, 8)["activation"], states()[:, 8])
    with pytest.raises(MicrotomeError, match="position 39 of sequence 0: not among"):
        token_profile(partly, -1)


def test_norms_are_counted_from_a_position_on():
    found = norm_histograms(norms(SOME), 10)
    assert found["count"].sum("bin").values.tolist() == [15, 15]


def test_next_tokens_are_those_after_the_last_token():
    class Numbers:
        def decode(self, ids):
            return str(ids[0])

    whole = states().isel(hidden=0).rename(d_model="d_vocab").to_dataset(name="logits")
    expected = np.argmax(whole["logits"].values[-1])
    for rows in (slice(None), [0, 39]):
        assert next_tokens(whole.isel(token=rows), Numbers(), 1)["token_id"].item() == expected
    with pytest.raises(MicrotomeError, match="position 39 of sequence 0: not among"):
        next_tokens(whole.isel(token=[0, 7]), Numbers(), 1)
