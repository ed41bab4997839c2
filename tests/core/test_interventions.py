"""Interventions in one sweep, against a full forward of the Hugging Face model for each case."""

from collections import deque
from functools import cache
from itertools import cycle, product

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import build
from hooked import columns, load, sites_of
from hooked import hooked as hooked_forward
from intervened import Hooked, intervened
from intervening import MARKS, TABLE, TEXTS, Tokenizer, at_site, swept
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from microtome.interventions import predictions, ride
from microtome.models.mapped import MappedModel
from microtome.sites import SITES

NAMES = ["gpt2", "gpt_neo", "gpt_neox", "gpt_neox_sequential", "llama", "qwen3", "gemma3"]


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
            # What has many digits cancelled has as many less.
            atol = max(1e-5 * np.nanmax(np.abs(values.values)), 1e-6)
            np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=atol, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], values, err_msg=name)
    for name, values in expected.coords.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.fixture
def check(checkpoints, hooked):
    """Intervene both ways, and return the sweep's outcome."""

    def check(name, entry, table=TABLE):
        found = swept(checkpoints[name], entry, table)
        assert_equal(found, intervened(hooked(name), table, entry, Tokenizer()))
        return found

    return check


#: Where only predictions are read, the last block computes no more than what they need.
READS = [{"logits": "all", "resid_post": "all"}, {"logits": "last", "kl": "last"}]


# The reference


def test_the_reference_reads_what_the_full_forward_has(hooked):
    for name in NAMES:
        everything = hooked_forward(hooked(name).model, name, TEXTS[0][None])
        logits, seen = hooked(name).forward(TEXTS[0], sites_of(name))
        np.testing.assert_array_equal(logits, everything[None, "logits"][0])
        for key, values in seen.items():
            np.testing.assert_array_equal(values.reshape(7, -1), everything[key][0])


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_in_two_ways(hooked, name):
    """What are the same changes in words alone have the same outcome."""

    def outcome(site, change, **more):
        entry = {"site": site, "change": change, "read": READS[0]} | more
        return intervened(hooked(name), columns([TEXTS[0], TEXTS[2]]), entry)

    for site in sites_of(name):
        for nothing in ({"scale": 1.0}, {"noise": 0.0}, {"patch": [[0, 0], [1, 1]]}):
            assert not outcome(site, nothing).resid_post_difference.any()
        assert outcome(site, "zero").resid_post_difference.any()
    xr.testing.assert_equal(
        outcome("resid_post", {"scale": 0.5}, layers=[1]).logits,
        outcome("resid_pre", {"scale": 0.5}, layers=[2]).logits,
    )
    patched = outcome("resid_pre", {"patch": [[0, 1]]}, layers=[0])
    np.testing.assert_array_equal(
        patched.logits, outcome("z", {"scale": 1}).clean_logits[len(TEXTS[0]) :]
    )
    if name in ("llama", "qwen3", "gemma3"):  # no bias
        for inside, outside in [("z", "attn_out"), ("post", "mlp_out")]:
            xr.testing.assert_equal(outcome(inside, "zero"), outcome(outside, "zero"))


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
    "mean_of_texts_and_tokens": {"mean": ["texts", "tokens"]},
    "median_tokens": {"median": "tokens"},
    "median_neurons": {"median": "neurons"},
    "median_of_all": {"median": ["tokens", "neurons"]},
    "median_texts": {"median": "texts"},
    "median_largest": {"median": ["tokens", "neurons"], "largest": 0.25},
    "mean_largest": {"mean": "neurons", "largest": 0.5, "by": "magnitude"},
    "permute_tokens": {"permute": "tokens", "seed": 1},
    "permute_neurons": {"permute": "neurons"},
    "permute_all": {"permute": ["tokens", "neurons"]},
    "project": {"project": 1},
    "project_by_variance": {"project": 0.5, "by": "variance"},
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


#: The sites that some of the tiny models have, and that can be changed.
CHANGEABLE = [site for site in SITES if any(site in sites_of(name) for name in NAMES)]


def turns():
    """Every change at every site, and every change on every architecture."""
    waiting, reads = deque(NAMES), cycle(READS)
    for change in CHANGES | ACROSS_HEADS:
        for site in 2 * WITH_HEADS if change in ACROSS_HEADS else CHANGEABLE:
            name = next(name for name in waiting if site in sites_of(name))
            waiting.remove(name)
            waiting.append(name)
            yield name, site, change, next(reads)


def test_the_turns_leave_nothing_out():
    done = list(turns())
    assert {(site, change) for _, site, change, _ in done} == {
        *product(CHANGEABLE, CHANGES),
        *product(WITH_HEADS, ACROSS_HEADS),
    }
    assert {(name, change) for name, _, change, _ in done} == {
        *product(NAMES, CHANGES | ACROSS_HEADS)
    }


@pytest.mark.parametrize(("name", "site", "change", "read"), list(turns()))
def test_every_change(check, hooked, name, site, change, read):
    change = with_vector((CHANGES | ACROSS_HEADS)[change], hooked(name), site)
    check(name, at_site(site, change, read=read, layers=[1, 3]))


@pytest.mark.parametrize(
    ("name", "site"), [(name, site) for name in NAMES for site in sites_of(name)]
)
def test_every_site_of_every_architecture(check, name, site):
    everything = {site: {"as": ["values", "difference", "cosine"]} for site in sites_of(name)}
    check(name, at_site(site, {"noise": 1.0}, tokens=[3], read=everything))
    # Several cases of a text in the last block, after which nothing but its last token is needed.
    noise = {"noise": 1.0, "seed": [1, 2, 3]}
    check(name, at_site(site, noise, each=["layer", "seed"], layers=[0, 3], read=READS[1]))


@pytest.mark.parametrize("change", [{"mean": ["texts", "tokens"]}, {"median": ["tokens", "texts"]}])
def test_texts_of_unequal_length_as_one(check, change):
    check("gpt2", at_site("z", change, tokens="all"))


def test_more_components_than_a_head_has_neurons(check):
    check("gpt2", at_site("z", {"project": [5, 7]}, each=["layer", "amount"], tokens="all"))


def test_a_share_is_rounded_down(check):
    """Of 24 values 2, 23 and none."""
    change = {"mean": ["heads", "neurons"], "largest": [0.1, 0.99, 0.04]}
    check("gpt2", at_site("z", change, each=["amount"]))


def test_what_a_change_of_ones_own_is_told(checkpoints):
    told = []

    def note(values, case):
        told.append((tuple(values.shape), case))
        return values

    def all_told(site, **more):
        told.clear()
        change = {"use": note, "amount": 0.25, "seed": 5}
        swept(checkpoints["gpt2"], at_site(site, change, tokens=[1, 3], layers=[2], **more))
        return told

    for shape, case in all_told("post"):
        assert shape == (2, 96)
        assert (case.layer, case.head, case.position) == (2, None, None)
        assert (case.amount, case.seed) == (0.25, 5)
        expected = np.random.default_rng([5, 2, case.text]).normal(size=3)
        np.testing.assert_array_equal(case.rng.normal(size=3), expected)
    assert sorted(case.text for _, case in told) == [0, 1, 2]
    assert [shape for shape, _ in all_told("z", heads=[0, 3], neurons=[2])] == 3 * [(2, 2, 1)]
    for shape, _ in all_told("z", each=["layer", "head", "position"]):
        assert shape == (1, 1, 6)
    cases = [(case.head, case.position, case.text) for _, case in told]
    assert sorted(cases) == list(product(range(4), range(2), range(3)))


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


@pytest.mark.parametrize(("name", "site"), [("gpt2", "z"), ("llama", "k")])
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
        {"heads": boolean(("layer", "n_heads"), **SIZES), "each": []},
        {"site": "post", "neurons": boolean(("layer", "d_mlp"), **SIZES)},
        {"site": "post", "neurons": boolean(("neuron",), **SIZES)},
        {"site": "post", "neurons": boolean(("neuron",), **SIZES).astype("int8")},
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


def test_layers_at_once_of_which_one_has_nothing_to_change(check):
    heads = boolean(("layer", "n_heads"), **SIZES)
    heads[1] = True
    heads[2] = False
    check("llama", at_site("z", "zero", each=[], heads=heads))


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
    "next": {"log_probabilities": "all", "targets": "next", "top": 2},
    "next_of_some": {"logits": [-2, -1], "targets": "next"},
    "logits_difference": {"logits_difference": "all"},
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
        "logits_difference": "last",
        "loss": True,
        "post": {"as": ["cosine"], "layers": [3]},
    },
}


@pytest.mark.parametrize(("name", "site"), [("llama", "z"), ("gpt_neox", "resid_post")])
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


# Bits, groups and reach


@pytest.mark.parametrize("site", ["resid_pre", "k", "z", "ln2_out", "post", "resid_post"])
@pytest.mark.parametrize("name", ["gpt2", "gpt_neo", "gpt_neox"])
def test_bits(checkpoints, hooked, name, site):
    """Bit for bit a full forward, where layers do not depend on what else is in the batch."""
    for change in ("zero", {"patch": [[0, 2], [2, 0]]}):
        entry = at_site(site, change, read={"logits": "all", "resid_post": {"as": "values"}})
        found = swept(checkpoints[name], entry)
        expected = intervened(hooked(name), TABLE, entry)
        for variable in expected.data_vars:
            np.testing.assert_array_equal(found[variable], expected[variable], err_msg=variable)


GROUPED = [
    at_site("z", "zero", each=["layer", "head"]),
    at_site("resid_post", {"noise": 0.5, "of": "sd", "seed": [0, 1, 2]}, each=["seed", "layer"]),
    at_site("v", {"patch": [[0, 2], [2, 1]], "from": 2}, each=["layer", "pair"]),
    at_site("resid_mid", {"project": [1, 2]}, each=["amount"]),
    at_site("post", "zero", each=["position", "layer"], read={"log_probabilities": "last"}),
]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("entry", GROUPED)
def test_no_case_depends_on_those_that_it_rides_with(checkpoints, monkeypatch, name, entry):
    whole = swept(checkpoints[name], entry)
    for rows in (1, 3, 1000):
        assert_same(swept(checkpoints[name], entry, rows_at_once=rows), whole)
    assert_same(swept(checkpoints[name], entry, batch_tokens=1), whole)
    monkeypatch.setattr(ride, "INSIDE", 8)
    monkeypatch.setattr(predictions, "PREDICTED", 3)
    monkeypatch.setattr(ride, "CALLS", 1)
    assert_same(swept(checkpoints[name], entry), whole)


def assert_same(found, expected):
    """Equal, but for the last bits that depend on the shapes of element-wise operations."""
    xr.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)


def test_a_case_has_its_noise_whatever_else_is_asked(checkpoints):
    change = {"noise": 0.5, "seed": [4, 3]}
    whole = swept(checkpoints["gpt2"], at_site("z", change, each=["seed", "layer"]))
    alone = at_site("z", {"noise": 0.5, "seed": 3}, layers=[2])
    xr.testing.assert_allclose(
        swept(checkpoints["gpt2"], alone).logits.sel(layer=2, drop=True),
        whole.logits.sel(layer=2, seed=3, drop=True),
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("site", ["resid_pre", "k", "z", "resid_post"])
def test_what_a_change_cannot_reach_is_exactly_that_of_the_clean_run(checkpoints, name, site):
    others = [other for other in sites_of(name) if other != site]
    read = {other: {"as": ["values", "difference", "cosine"]} for other in others}
    read |= {"logits": "all", "kl": "all"}
    table = TABLE | {"position": np.concatenate([np.arange(len(ids)) for ids in TEXTS])}
    found = swept(checkpoints[name], at_site(site, {"noise": 1.0}, tokens=[3, 4], read=read), table)
    early, early_read = found.position < 3, found.read_position < 3
    assert not found.kl.where(early, 0).any()
    xr.testing.assert_equal(
        found.logits.where(early, 0),
        found.clean_logits.where(early, 0).broadcast_like(found.logits),
    )
    for other in others:
        below = found.read_layer < found.layer
        if list(SITES).index(other) < list(SITES).index(site):
            below |= found.read_layer == found.layer
        for unreached in (below, early_read):
            assert not found[f"{other}_difference"].where(unreached, 0).any()
            assert abs(found[f"{other}_cosine"].where(unreached, 1) - 1).max() < 1e-6
            clean, values = xr.broadcast(found[f"clean_{other}"], found[other])
            xr.testing.assert_equal(values.where(unreached, 0), clean.where(unreached, 0))


def test_each_blocks_weights_are_read_once_per_group(checkpoints, monkeypatch):
    read = []
    blocks = MappedModel.weights_of_blocks

    def noted(self, layers):
        read.append([])
        for layer, weights in blocks(self, layers):
            read[-1].append(layer)
            yield layer, weights

    monkeypatch.setattr(MappedModel, "weights_of_blocks", noted)
    entry = at_site("z", "zero", each=["layer", "head"])
    swept(checkpoints["llama"], entry, columns(TEXTS[:1]), rows_at_once=16)
    assert read == [[0, 1, 2, 3]]
    read.clear()
    # Two of four heads in each of four layers: a group begins where its first case does.
    swept(checkpoints["llama"], entry, columns(TEXTS[:1]), rows_at_once=8)
    assert read == [[0, 1, 2, 3], [2, 3]]


# Other models


def test_where_q_and_o_have_one_shape(tmp_path, hooked):
    checkpoint = build(tmp_path, "llama", num_key_value_heads=4)
    model = Hooked(load(checkpoint), "llama")
    entry = at_site("z", "zero", each=["layer", "head"])
    assert_equal(swept(checkpoint, entry), intervened(model, TABLE, entry))


@pytest.mark.parametrize("site", ["resid_pre", "resid_post"])
def test_where_an_argument_counts_the_rows(tmp_path, site):
    """BLOOM's ALiBi biases are (rows * heads, 1, position)."""
    config = AutoConfig.for_model(
        "bloom", vocab_size=101, hidden_size=24, n_layer=4, n_head=4, seq_length=64
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model = Hooked(load(tmp_path), "bloom")
    for change in ("zero", {"patch": [[0, 2]]}, {"noise": 1.0}):
        entry = at_site(site, change)
        assert_equal(swept(tmp_path, entry), intervened(model, TABLE, entry))


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo", "gemma3"])
def test_a_text_of_one_token(check, name):
    entry = at_site("z", "zero", tokens="all")
    check(name, entry, columns([TEXTS[0][:1]]))
    check(name, entry, columns([TEXTS[0], TEXTS[1][:1]]))


@pytest.fixture(scope="module")
def real(smollm2):
    """SmolLM2, and two texts of five tokens."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    texts = tokenizer(["The cat sat on the", "A dog lay near the"])["input_ids"]
    assert len(texts[0]) == len(texts[1])
    return Hooked(load(smollm2), "llama"), columns([np.array(ids) for ids in texts])


@pytest.mark.parametrize(
    "entry",
    [
        {
            "site": "z",
            "each": ["layer", "head"],
            "layers": [0, 14, 29],
            "change": "zero",
            "read": {"log_probabilities": "last", "kl": "last"},
        },
        {
            "site": "resid_pre",
            "each": ["layer"],
            "layers": range(0, 30, 5),
            "tokens": "last",
            "change": {"patch": [[0, 1]]},
            "read": {"logits": "last", "resid_post": {"layers": [29]}},
        },
        {
            "site": "resid_post",
            "each": ["layer"],
            "layers": [3, 20],
            "change": {"noise": 0.5, "of": "sd"},
            "read": {"loss": True, "log_probabilities": "all", "targets": "clean"},
        },
    ],
)
def test_smollm2(smollm2, real, entry):
    model, table = real
    assert_equal(swept(smollm2, entry, table), intervened(model, table, entry))


# Order, names and random numbers


def test_positions_are_those_that_are_changed(checkpoints):
    """The token table has a column of that name too, which then has another one."""
    position = np.concatenate([np.arange(len(text)) for text in TEXTS])
    entry = at_site("q", "zero", each=["position"], tokens=[1, 2], read={"logits": "last"})
    found = swept(checkpoints["gpt2"], entry, TABLE | {"position": position})
    assert found.position.dims == ("position",) and found.position.values.tolist() == [1, 2]
    assert found.token_position.values.tolist() == [len(text) - 1 for text in TEXTS]


def test_a_vectors_dimensions_may_stand_in_any_order(checkpoints):
    vector = xr.DataArray(np.arange(24.0).reshape(4, 6), dims=("n_heads", "d_head"))
    entries = [
        at_site("q", {"add": 0.1, "vector": given}) for given in (vector, vector.transpose())
    ]
    one, other = (swept(checkpoints["gpt2"], entry) for entry in entries)
    xr.testing.assert_identical(one, other)


@pytest.mark.parametrize("site", ["z", "resid_post"])
def test_where_attention_looks_ahead(tmp_path, site):
    """Gemma 3 can be made to: then a change reaches the tokens before it too."""
    checkpoint = build(tmp_path, "gemma3", use_bidirectional_attention=True)
    read = {"logits": [0, -1]}
    entry = at_site(site, "zero", layers=[1], tokens="last", each=[], read=read)
    table = columns([TEXTS[0]])
    model = Hooked(load(checkpoint), "gemma3")
    assert_equal(swept(checkpoint, entry, table), intervened(model, table, entry))


def test_a_changes_random_numbers_go_on(checkpoints):
    drawn = []

    def draw(values, case):
        drawn.append((case.rng.normal(), case.rng.normal()))
        return values

    swept(checkpoints["gpt2"], at_site("z", draw))
    assert all(first != second for first, second in drawn)


def test_variables_stand_in_one_order(checkpoints):
    """A file's bytes depend on it."""
    read = {"log_probabilities": "last", "targets": "clean", "top": 2}
    found = swept(checkpoints["gpt2"], at_site("z", "zero", each=[], read=read))
    ids = ["top_token_id", "clean_top_token_id"]
    values = ["log_probabilities", "clean_log_probabilities"]
    highest = ["top_log_probabilities", "clean_top_log_probabilities"]
    assert list(found.data_vars) == [*values, *highest, *ids, "top_text", "clean_top_text"]
    assert [name for name in found.coords if "target" in name] == ["target_id", "target_text"]
