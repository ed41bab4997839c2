"""What fits a model and texts, and what does not."""

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from hooked import columns

from microtome.interventions.declaration import DeclarationError
from microtome.interventions.declared import declared
from microtome.interventions.fit import fit_model, fit_set, fit_texts
from microtome.models.taps import Tap
from microtome.sites import SITES

SIZES = {"n_layers": 3, "d_model": 16, "n_heads": 4, "n_kv_heads": 2, "d_head": 4, "d_mlp": 64}
SIZES |= {"d_vocab": 128, "n_context": 64}
TEXTS = columns([[5, 6, 7, 8], [1, 2], [3, 4, 5, 6]])
TAPS = {site: Tap("module") for site in SITES if site not in ("pre_linear", "router")}
WORDS = TEXTS | {"in_word": np.array([0, 1, 1, 0, 0, 1, 0, 0, 0, 1], np.int8)}


def entry(**keys):
    return declared({"site": "z", "change": "zero", "read": {"logits": "last"}} | keys)


def of_heads(*layers):
    """A statistic's heads in some layers."""
    return xr.DataArray(
        np.ones((len(layers), 4), bool), {"layer": list(layers)}, ("layer", "n_heads")
    )


def fault(judge, *arguments, **keywords):
    with pytest.raises(DeclarationError) as caught:
        judge(*arguments, **keywords)
    return ".".join(caught.value.keys), caught.value.fault


@pytest.mark.parametrize(
    "keys",
    [
        {"each": ["layer", "head"]},
        {"layers": [0, 2], "heads": [3], "neurons": [0, 3]},
        {"site": "k", "heads": [1]},
        {"heads": "t_tests.significant", "neurons": "t_tests.neurons"},
        {"heads": of_heads(0, 1, 2)},
        {"heads": of_heads(1), "layers": [1]},
        {"heads": xr.DataArray(np.ones(4, bool), dims="n_heads")},
        {"site": "post", "neurons": xr.DataArray(np.ones(64, bool), dims="neuron")},
        {"site": "post", "each": ["neurons"], "neurons": {"few": [0, 63], "other": "t.s"}},
        {"change": {"add": 1, "vector": xr.DataArray(np.ones((4, 4)), dims=["n_heads", "d_head"])}},
        {"site": "resid_post", "change": {"project": 16}},
        {"read": {"logits": "last", "top": 128, "resid_post": {"layers": [2]}}},
    ],
)
def test_what_a_model_can_serve(keys):
    fit_model(entry(**keys), SIZES, TAPS, "gpt2", "causal")


@pytest.mark.parametrize(
    ("keys", "key", "message"),
    [
        ({"site": "pre_linear"}, "site", "site 'pre_linear': a 'gpt2' model has none; "),
        ({"read": {"pre_linear": "all"}}, "read.pre_linear", "site 'pre_linear': a 'gpt2' model"),
        ({"layers": [1, 3]}, "layers", "no layer 3; there are 0 to 2"),
        ({"read": {"z": {"layers": [7]}}}, "read.z.layers", "no layer 7; there are 0 to 2"),
        ({"heads": [1, 4]}, "heads", "no head 4; there are 0 to 3"),
        ({"site": "k", "heads": [2]}, "heads", "no head 2; there are 0 to 1"),
        ({"neurons": [4]}, "neurons", "no neuron 4; there are 0 to 3"),
        (
            {"site": "post", "each": ["neurons"], "neurons": {"a": [1], "b": [64]}},
            "neurons.b",
            "no neuron 64; there are 0 to 63",
        ),
        (
            {"heads": xr.DataArray(np.full(4, 0.5), dims="n_heads")},
            "heads",
            "wants a variable of true and false, or of 1 and 0",
        ),
        (
            {"heads": xr.DataArray(np.eye(4)[0], {"n_heads": [3, 2, 1, 0]})},
            "heads",
            "has n_heads twice, or in another order than the model",
        ),
        (
            {"change": {"add": 1, "vector": xr.DataArray([[np.nan] * 4] * 4, dims=("a", "b"))}},
            "change.vector",
            "wants numbers; has others, NaN or infinity",
        ),
        (
            {"heads": xr.DataArray(np.ones(3, bool), dims="site")},
            "heads",
            "wants the dimensions n_heads (4); has site (3)",
        ),
        ({"heads": of_heads(0, 2)}, "heads", "has no layer 1, which is changed"),
        (
            {"change": {"add": 1, "vector": xr.DataArray(np.ones(16), dims="d_model")}},
            "change.vector",
            "wants the dimensions n_heads (4) × d_head (4); has d_model (16)",
        ),
        ({"change": {"project": 17}}, "change.project", "no 17 components of 16 values of z"),
        ({"read": {"logits": "all", "top": 129}}, "read.top", "wants the 129 highest of 128"),
    ],
)
def test_what_a_model_cannot_serve(keys, key, message):
    found = fault(fit_model, entry(**keys), SIZES, TAPS, "gpt2", "causal")
    assert found[0] == key
    assert found[1].startswith(message)


@pytest.mark.parametrize(
    "keys",
    [
        {"tokens": "word"},
        {"tokens": [1, -2], "each": ["position"]},
        {"change": {"patch": [[0, 2], [2, 0]]}, "each": ["position", "pair"]},
        {"change": {"patch": [[1, 0]], "align": "end"}},
        {"change": {"patch": [[0, 1]], "align": "end"}, "tokens": "last"},
        {"change": {"patch": [[0, 1]], "align": "start"}, "tokens": [0, 1]},
        {"change": {"patch": [[0, 1]], "from": -2}},
        {"change": {"patch": [[0, 2]]}, "tokens": [3]},  # which text 1 lacks
        {"change": {"mean": "texts"}, "tokens": "last"},
        {"change": {"add": 1, "vector": {"texts": [0, 1], "tokens": [1]}}},
        {"read": {"loss": True}},
    ],
)
def test_what_texts_can_serve(keys):
    fit_texts(entry(**keys), WORDS)


@pytest.mark.parametrize(
    ("keys", "key", "message"),
    [
        ({"tokens": [2]}, "tokens", "text 1 has 2 tokens and no position 2"),
        ({"read": {"kl": [-3]}}, "read.kl", "text 1 has 2 tokens and no position -3"),
        ({"read": {"z": {"tokens": [3]}}}, "read.z", "text 1 has 2 tokens and no position 3"),
        (
            {"change": {"add": 1, "vector": {"texts": [0, 1], "tokens": [2]}}},
            "change.vector.tokens",
            "text 1 has 2 tokens and no position 2",
        ),
        ({"tokens": "mask"}, "tokens", "text 0 has no mask token"),
        ({"each": ["position"]}, "tokens", "wants as many tokens of each text, since `each` has"),
        ({"change": {"mean": "texts"}}, "tokens", "wants as many tokens of each text, since the m"),
        (
            {"change": {"patch": [[0, 1], [1, 0]], "align": "end"}, "tokens": "last"}
            | {"each": ["pair"], "read": {"logits": "all"}},
            "read.logits",
            "wants as many tokens of each text, since `each` has pair; has 2 to 4",
        ),
        (
            {"change": {"patch": [[0, 1]]}},
            "change.patch",
            "text 0 has 4 tokens, text 1 has 2; say `align: start` or `align: end`",
        ),
        (
            {"change": {"patch": [[0, 1]], "align": "end"}},
            "tokens",
            "text 0 has 4 tokens, text 1 has 2; counted from the end, token 0 has no partner",
        ),
        (
            {"change": {"patch": [[0, 1]], "from": 2}},
            "change.from",
            "text 1 has 2 tokens and no position 2",
        ),
        ({"change": {"patch": [[0, 3]]}}, "change.patch", "no text 3; there are 0 to 2"),
    ],
)
def test_what_texts_cannot_serve(keys, key, message):
    found = fault(fit_texts, entry(**keys), WORDS)
    assert found[0] == key
    assert found[1].startswith(message)


def test_a_text_of_one_token_has_no_loss():
    found = fault(fit_texts, entry(read={"loss": True}), columns([[1, 2], [3]]))
    assert found == ("read.loss", "text 1 is one token, which nothing predicts")


def test_a_set_without_words_has_no_word():
    steer = {"add": 1, "vector": {"texts": [0, 1], "tokens": "word"}}
    assert fault(fit_texts, entry(tokens="word"), TEXTS)[0] == "tokens"
    assert fault(fit_set, entry(change=steer), 2, words=False)[0] == "change.vector.tokens"
    fit_set(entry(change=steer), 2, words=True)
    assert fault(fit_set, entry(change=steer), 1, words=True)[1] == "no text 1; there are 0 to 0"


def test_a_config_is_checked_without_numpy():
    script = "import microtome.interventions.fit, sys; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
