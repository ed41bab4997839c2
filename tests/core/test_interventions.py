"""Interventions in one sweep, against a full forward of the Hugging Face model for each case."""

from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr
from hooked import columns, load, sites_of, taps_at
from intervened import Hooked, intervened

from microtome.interventions.declaration import declared
from microtome.interventions.run import intervene
from microtome.sites import SITES

NAMES = ["gpt2", "gpt_neo", "gpt_neox", "gpt_neox_sequential", "llama", "qwen3", "gemma3"]
#: The first and the third are equally long.
TEXTS = [np.random.default_rng(i).integers(3, 101, n) for i, n in enumerate([7, 5, 7])]
TABLE = columns(TEXTS)


class Tokenizer:
    """Token 5 is "<5>"."""

    def encode(self, text, add_special_tokens=True):
        assert not add_special_tokens
        return [int(number) for number in text.strip("<>").split("><")]

    def decode(self, ids):
        return "".join(f"<{token}>" for token in ids)


@pytest.fixture(scope="module")
def hooked(checkpoints):
    """The Hugging Face model of a name."""
    return cache(lambda name: Hooked(load(checkpoints[name]), name))


def assert_equal(found, expected):
    """The same variables, dimensions and coordinates; numbers to the rounding of float32."""
    assert set(found.data_vars) == set(expected.data_vars)
    for name, values in expected.data_vars.items():
        assert found[name].dims == values.dims, name
        if values.dtype.kind == "f":
            atol = 1e-5 * np.abs(values.values).max()
            np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=atol, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], values, err_msg=name)
    for name, values in expected.coords.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.fixture
def check(checkpoints, hooked):
    """Intervene both ways, and return the sweep's outcome."""

    def check(name, entry, table=TABLE, **options):
        found = intervene(
            *(checkpoints[name], table, declared(entry)),
            taps=taps_at(checkpoints[name]),
            tokenizer=Tokenizer(),
            **options,
        )
        assert_equal(found, intervened(hooked(name), table, entry, Tokenizer()))
        return found

    return check


# Changes


def shrink(values, case):
    """A change of one's own, which uses all that it is told."""
    noise = case.rng.normal(size=len(values))
    kept = 1 - case.amount * torch.linspace(0, 1 + case.layer + case.text, values.shape[-1])
    by_token = torch.from_numpy(noise).float()
    return values * kept + by_token.reshape(-1, *[1] * (values.ndim - 1)) * (1 + case.seed)


#: By name, and `statistic` for a vector that the site's dimensions are needed for.
CHANGES = {
    "zero": "zero",
    "scale": {"scale": -0.5},
    "add": {"add": 2.0},
    "add_statistic": {"add": 2.0, "vector": "statistic"},
    "add_texts": {"add": 2.0, "vector": {"texts": [2, 1], "tokens": [1, 3]}},
    "add_last": {"add": 0.5, "vector": {"texts": [0, 1]}},
    "noise": {"noise": 0.5, "seed": 3},
    "noise_of_sd": {"noise": 0.5, "of": "sd"},
    "patch": {"patch": [[0, 2], [2, 0]]},
    "patch_from": {"patch": [[0, 1], [1, 1]], "from": -2},
    "patch_start": {"patch": [[1, 0]], "align": "start"},
    "patch_end": {"patch": [[1, 2], [0, 2]], "align": "end"},
    "mean_tokens": {"mean": "tokens"},
    "mean_neurons": {"mean": "neurons"},
    "mean_of_all": {"mean": ["neurons", "tokens"]},
    "mean_texts": {"mean": "texts"},
    "mean_of_texts_and_neurons": {"mean": ["texts", "neurons"]},
    "median_tokens": {"median": "tokens"},
    "median_neurons": {"median": "neurons"},
    "median_of_all": {"median": ["tokens", "neurons"]},
    "median_texts": {"median": "texts"},
    "median_largest": {"median": ["tokens", "neurons"], "largest": 0.25},
    "mean_largest": {"mean": "neurons", "largest": 0.5, "by": "magnitude"},
    "permute_tokens": {"permute": "tokens", "seed": 1},
    "permute_neurons": {"permute": "neurons"},
    "permute_all": {"permute": ["tokens", "neurons"]},
    "project": {"project": 2},
    "project_by_variance": {"project": 0.8, "by": "variance"},
    "project_centered_on_all": {"project": 1, "centered": ["tokens", "neurons"]},
    "project_uncentered": {"project": 2, "centered": []},
    "use": {"use": shrink, "amount": 0.25},
}
#: At sites with heads.
ACROSS_HEADS = {
    "mean_heads": {"mean": "heads"},
    "mean_heads_and_texts": {"mean": ["texts", "heads"]},
    "median_heads": {"median": "heads"},
    "median_heads_and_neurons": {"median": ["heads", "neurons"]},
    "median_of_largest_heads": {"median": "heads", "largest": 0.5, "by": "magnitude"},
    "permute_heads": {"permute": "heads", "seed": 1},
    "permute_heads_and_tokens": {"permute": ["tokens", "heads"], "seed": 1},
    "permute_everything": {"permute": ["neurons", "tokens", "heads"]},
}
WITH_HEADS = ("q", "k", "v", "z")


def with_vector(change, hooked, site):
    """A change in which a statistic's variable stands for its name."""
    if not isinstance(change, dict) or change.get("vector") != "statistic":
        return change
    _, values = hooked.forward([1], [site])
    shape = values[0, site].shape[1:] if site in WITH_HEADS else values[0, site].shape[2:]
    vector = np.random.default_rng(0).normal(size=(hooked.n_layers, *shape)).astype(np.float32)
    layers = range(hooked.n_layers)
    vector = xr.DataArray(vector, dims=("layer", *SITES[site]), coords={"layer": layers})
    return change | {"vector": vector.isel(layer=slice(None, None, -1))}


def changes_of(site):
    return CHANGES | (ACROSS_HEADS if site in WITH_HEADS else {})


def at_site(site, change, **more):
    """An entry for each layer, with tokens that do not begin with the first."""
    read = {"logits": "all", "resid_post": "all"}
    entry = {"site": site, "each": ["layer"], "tokens": [1, 2, -2, -1], "change": change}
    return entry | {"read": read} | more


@pytest.mark.parametrize(
    ("site", "change"), [(site, change) for site in SITES for change in changes_of(site)]
)
def test_every_change_at_every_site(check, hooked, site, change):
    entry = at_site(site, with_vector(changes_of(site)[change], hooked("llama"), site))
    check("llama", entry)


def turns():
    """Every change on every architecture, at one site after another."""
    for number, name in enumerate(NAMES):
        sites = sites_of(name)
        for i, change in enumerate(CHANGES):
            yield name, sites[(i + number) % len(sites)], change
        for i, change in enumerate(ACROSS_HEADS):
            yield name, WITH_HEADS[(i + number) % 4], change


@pytest.mark.parametrize(("name", "site", "change"), turns())
def test_every_change_on_every_architecture(check, hooked, name, site, change):
    check(name, at_site(site, with_vector(changes_of(site)[change], hooked(name), site)))


@pytest.mark.parametrize(
    ("name", "site"), [(name, site) for name in NAMES for site in sites_of(name)]
)
def test_every_site_of_every_architecture(check, name, site):
    everything = {site: {"as": ["values", "difference", "cosine"]} for site in sites_of(name)}
    check(name, at_site(site, {"noise": 1.0}, tokens=[3], read=everything))


# What varies

EACH = {
    "one_case": {},
    "all_layers_at_once": {"change": {"noise": 0.5, "of": "sd"}},
    "some_layers_at_once": {"layers": [1, 3], "change": {"scale": 0.5}},
    "patch_in_all_layers": {"change": {"patch": [[0, 2]]}},
    "some_layers": {"each": ["layer"], "layers": [3, 1]},
    "heads": {"each": ["head"]},
    "some_heads": {"each": ["layer", "head"], "heads": [1]},
    "layers_and_heads": {"each": ["layer", "head"]},
    "heads_and_layers": {"each": ["head", "layer"]},
    "positions": {"each": ["position"], "tokens": [0, 2, -1]},
    "layers_and_positions": {"each": ["layer", "position"], "tokens": [0, 1, 2, 3, 4]},
    "neurons": {"each": ["neurons", "layer"], "neurons": [3, 0, 5]},
    "groups": {"each": ["layer", "neurons"], "neurons": {"few": [1, 4], "one": [2]}},
    "amounts": {"each": ["amount", "layer"], "change": {"scale": [0.0, 0.5, 2.0]}},
    "amounts_in_all_layers": {"each": ["amount"], "change": {"add": [0.5, 2.0]}},
    "shares": {
        "each": ["layer", "amount"],
        "change": {"median": ["heads", "neurons"], "largest": [0.0, 0.5, 1.0]},
    },
    "components": {"each": ["amount"], "change": {"project": [1, 2, 3]}},
    "shares_of_variance": {
        "each": ["layer", "amount"],
        "change": {"project": [0.3, 0.9, 1.0], "by": "variance"},
    },
    "seeds": {"each": ["seed"], "change": {"permute": "neurons", "seed": [2, 0, 1]}},
    "seeds_and_layers": {"each": ["seed", "layer"], "change": {"noise": 0.5, "seed": [0, 1]}},
    "amounts_and_seeds": {
        "each": ["amount", "seed"],
        "change": {"noise": [0.1, 0.5], "of": "sd", "seed": [0, 1]},
    },
    "pairs": {"each": ["pair"], "change": {"patch": [[0, 2], [2, 0]]}},
    "layers_and_pairs": {"each": ["layer", "pair"], "change": {"patch": [[0, 2], [2, 2]]}},
    "pairs_heads_and_positions": {
        "each": ["pair", "head", "position"],
        "layers": [2],
        "change": {"patch": [[0, 1], [2, 1]], "from": 1},
        "tokens": [3, 4],
    },
    "own_amounts_and_seeds": {
        "each": ["layer", "head", "position", "amount", "seed"],
        "layers": [1, 2],
        "tokens": [1, 4],
        "change": {"use": shrink, "amount": [0.5, 1], "seed": [0, 7]},
    },
}


@pytest.mark.parametrize("site", ["z", "k"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("each", EACH)
def test_what_varies(check, name, site, each):
    entry = at_site(site, "zero", each=[]) | EACH[each]
    found = check(name, entry)
    assert found.logits.dims[: len(entry["each"])] == tuple(entry["each"])


def test_positions_of_one_text_have_the_texts_of_their_tokens(check):
    table = columns(TEXTS[:1]) | {"text": np.array([f"<{token}>" for token in TEXTS[0]])}
    entry = at_site("resid_pre", "zero", each=["position"], tokens=[2, 4])
    found = check("gpt2", entry, table)
    assert found.position_text.dims == ("position",)
    assert found.position_text.values.tolist() == [f"<{token}>" for token in TEXTS[0][[2, 4]]]


def test_pairs_have_their_texts(check):
    found = check("gpt2", at_site("z", {"patch": [[0, 2], [2, 1]], "from": 0}, each=["pair"]))
    assert found.receiver.values.tolist() == [0, 2]
    assert found.giver.values.tolist() == [2, 1]
    assert found.receiver.dims == found.giver.dims == ("pair",)


def boolean(dims, seed=0, **sizes):
    shape = [sizes[dim] for dim in dims]
    values = np.random.default_rng(seed).random(shape) < 0.5
    return xr.DataArray(values, dims=dims, coords={"layer": range(4)} if "layer" in dims else None)


SIZES = {"layer": 4, "n_heads": 4, "d_head": 6, "d_mlp": 40, "neuron": 40}


@pytest.mark.parametrize(
    "where",
    [
        {"heads": boolean(("layer", "n_heads"), **SIZES)},
        {"heads": boolean(("n_heads",), **SIZES), "neurons": [0, 3]},
        {"neurons": boolean(("d_head", "layer"), **SIZES), "heads": [2, 3]},
        {"site": "post", "neurons": boolean(("layer", "d_mlp"), **SIZES)},
        {"site": "post", "neurons": boolean(("neuron",), **SIZES)},
        {"site": "pre", "neurons": [1, 39]},
        {
            "site": "post",
            "each": ["layer", "neurons"],
            "neurons": {
                "these": boolean(("layer", "neuron"), **SIZES),
                "those": boolean(("d_mlp",), seed=1, **SIZES),
                "few": [3, 1],
            },
        },
    ],
)
@pytest.mark.parametrize("change", ["zero", {"noise": 1, "of": "sd"}, {"mean": "neurons"}])
def test_heads_and_neurons(check, where, change):
    check("llama", at_site("z", change) | where)


MARKS = {
    "in_word": np.concatenate([[0, 0, 1, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1]]),
    "masked": np.concatenate([[0, 1, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 0, 0]]),
}


@pytest.mark.parametrize(
    "tokens",
    [
        *("all", "last", "word", "mask", [0], [-1, 1], {"from": 3}, {"from": -2}),
        *({"from": "word"}, {"from": "mask"}),
    ],
)
def test_tokens(check, tokens):
    entry = at_site("resid_mid", {"noise": 1.0}, tokens=tokens)
    check("gpt2", entry | {"read": {"logits": tokens, "resid_post": tokens}}, TABLE | MARKS)


# What is read

READ = {
    "logits": {"logits": "last"},
    "all_logits": {"logits": "all"},
    "log_probabilities": {"log_probabilities": [1, -1]},
    "both": {"logits": [2], "log_probabilities": [2], "kl": [2]},
    "targets": {"log_probabilities": "all", "targets": ["<7>", "<3>"]},
    "targets_in_both": {"logits": "last", "log_probabilities": "last", "targets": ["<7>"]},
    "clean_targets": {"log_probabilities": "all", "targets": "clean"},
    "clean_logits": {"logits": "last", "targets": "clean", "kl": "last"},
    "top": {"logits": "last", "top": 5},
    "top_of_log_probabilities": {"log_probabilities": "all", "top": 3},
    "targets_and_top": {"logits": [0, -1], "targets": ["<7>"], "top": 2},
    "kl": {"kl": "all"},
    "loss": {"loss": True},
    "loss_and_logits": {"loss": True, "logits": "last"},
    "difference": {"resid_post": "all"},
    "difference_at_last": {"attn_out": "last", "q": "last"},
    "values": {"z": {"tokens": [1, -1], "as": "values"}, "k": {"tokens": [1, -1], "as": "values"}},
    "some_layers": {
        site: {"tokens": {"from": 3}, "layers": [1, 2], "as": ["values", "cosine", "difference"]}
        for site in ("resid_pre", "mlp_out", "v")
    },
    "everything": {
        "logits": "last",
        "log_probabilities": "last",
        "targets": ["<5>"],
        "top": 4,
        "kl": "last",
        "loss": True,
        "post": {"as": ["cosine"], "layers": [3]},
    },
}


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
@pytest.mark.parametrize("site", ["z", "resid_post"])
@pytest.mark.parametrize("read", READ)
def test_what_is_read(check, name, site, read):
    check(name, at_site(site, {"scale": 0.5}, read=READ[read]))


@pytest.mark.parametrize("read", ["clean_targets", "everything", "some_layers"])
def test_what_is_read_of_pairs(check, read):
    change = {"patch": [[0, 2], [2, 0]]}
    check("llama", at_site("v", change, read=READ[read], each=["pair", "layer"]))
    check("llama", at_site("v", change, read=READ[read], each=["layer"]))


def test_rows_have_the_columns_of_their_tokens(check):
    table = TABLE | {
        "position": np.concatenate([np.arange(len(ids)) for ids in TEXTS]),
        "text": np.array([f"<{token}>" for token in TABLE["token_id"]]),
    }
    read = {"kl": [2, -1], "resid_post": "last"}
    found = check("gpt2", at_site("z", "zero", read=read), table)
    assert found.sequence.dims == ("token",)
    assert found.sequence.values.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.position.values.tolist() == [2, 6, 2, 4, 2, 6]
    assert found.token_id.values.tolist() == [ids[i] for ids in TEXTS for i in (2, -1)]
    assert found.text.values.tolist() == [f"<{ids[i]}>" for ids in TEXTS for i in (2, -1)]
    assert found.read_sequence.dims == ("read_token",)
    assert found.read_position.values.tolist() == [6, 4, 6]
    assert found.read_text.values.tolist() == [f"<{ids[-1]}>" for ids in TEXTS]
    assert found.read_layer.values.tolist() == [0, 1, 2, 3]


def test_targets_have_their_texts(check):
    entry = at_site("z", "zero", read={"logits": "last", "targets": ["<7>", "<3>"], "loss": True})
    found = check("gpt2", entry)
    assert found.target.values.tolist() == ["<7>", "<3>"]
    assert found["stimulus"].values.tolist() == [0, 1, 2]


def test_clean_targets_have_their_texts(check, hooked):
    found = check("gpt2", at_site("z", "zero", read={"logits": "last", "targets": "clean"}))
    best = [hooked("gpt2").forward(ids)[0][-1].argmax() for ids in TEXTS]
    assert found.target_id.dims == found.target_text.dims == ("token",)
    assert found.target_id.values.tolist() == best
    assert found.target_text.values.tolist() == [f"<{token}>" for token in best]


# Cases share the sweep


def intervene_at(checkpoint, entry, table=TABLE, **options):
    return intervene(
        *(checkpoint, table, declared(entry)),
        taps=taps_at(checkpoint),
        tokenizer=Tokenizer(),
        **options,
    )
