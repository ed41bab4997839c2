"""What can be declared of an intervention, and the one line for each thing that cannot."""

import numpy as np
import pytest
import xarray as xr

from microtome.errors import MicrotomeError
from microtome.interventions.declaration import (
    Change,
    DeclarationError,
    Intervention,
    Read,
    Reference,
    SiteRead,
    Tokens,
    Vector,
)
from microtome.interventions.declared import declared

BASE = {"site": "z", "change": "zero", "read": {"logits": "last"}}


def with_(**keys):
    """A declaration in which some keys are others; None leaves one out."""
    return {key: value for key, value in (BASE | keys).items() if value is not None}


def reading(**keys):
    return with_(read=keys)


POSITIONS = "wants all, last, word, mask, a list of positions, or {from: a position, word or mask}"

#: A declaration, the keys that lead to its fault, and a piece of what is said.
FAULTS = {
    # Keys
    "no_mapping": (["z"], "", "wants the keys site, each, layers"),
    "unknown_key": (with_(head=[1]), "head", "unknown key; did you mean 'heads'?"),
    "key_far_from_all": (with_(xyz=1), "xyz", "unknown key; known: site, each, layers"),
    "number_as_a_key": (BASE | {5: 1}, "5", "unknown key; known: site"),
    "no_site": (with_(site=None), "", "the key 'site' is missing; docs/interventions.md says"),
    "no_change": (with_(change=None), "", "the key 'change' is missing"),
    "no_read": (with_(read=None), "", "the key 'read' is missing"),
    # Where
    "no_such_site": (with_(site="mlp_outt"), "site", "no site 'mlp_outt' of a block; did you mean"),
    "final_site": (with_(site="logits"), "site", "no site 'logits' of a block"),
    "several_sites": (with_(site=["z"]), "site", "no site ['z'] of a block"),
    "layers_is_a_number": (with_(layers=3), "layers", "wants `all` or a list of layers, as in"),
    "no_layers": (
        with_(layers=[]),
        "layers",
        "wants `all` or a list of layers, as in [4, 20%]; has []",
    ),
    "negative_layer": (with_(layers=[-1]), "layers", "a list of layers, as in [4, 20%]; has [-1]"),
    "layer_is_true": (
        with_(layers=[True]),
        "layers",
        "a list of layers, as in [4, 20%]; has [True]",
    ),
    "share_twice": (with_(layers=["20%", 3, "20%"]), "layers", "has '20%' twice; take one out"),
    "no_such_share": (with_(layers=["120%"]), "layers", "a list of layers, as in [4, 20%]; has"),
    "layer_twice": (with_(layers=[3, 1, 3]), "layers", "has 3 twice; take one out"),
    "last_layer": (
        with_(layers="last"),
        "layers",
        "wants `all` or a list of layers, as in [4, 20%]; has 'l",
    ),
    "heads_is_a_number": (
        with_(heads=2),
        "heads",
        "wants `all`, a list of numbers, or a statistic",
    ),
    "head_twice": (with_(heads=[1, 1]), "heads", "has 1 twice"),
    "heads_without_variable": (
        with_(heads="t_tests"),
        "heads",
        "wants a statistic's variable, as in",
    ),
    "heads_where_none_are": (
        with_(site="mlp_out", heads=[1]),
        "heads",
        "mlp_out has no heads; q, k, v, z have",
    ),
    "each_head_where_none_are": (
        with_(site="post", each=["layer", "head"]),
        "each",
        "post has no heads; q, k, v, z have",
    ),
    "across_heads_where_none_are": (
        with_(site="post", change={"permute": ["heads", "neurons"]}),
        "change",
        "post has no heads; q, k, v, z have",
    ),
    "each_of_a_statistics_heads": (
        with_(each=["head"], heads="t_tests.significant"),
        "heads",
        "wants `all` or numbers where `each` has head; a statistic's heads are one case",
    ),
    "neurons_is_a_number": (with_(neurons=5), "neurons", "wants `all`, a list of numbers, or a st"),
    "negative_neuron": (with_(neurons=[-1]), "neurons", "wants `all`, a list of numbers"),
    "no_groups": (with_(neurons={}, each=["neurons"]), "neurons", "has no groups; name some"),
    "group_of_all": (
        with_(neurons={"a": "all"}, each=["neurons"]),
        "neurons.a",
        "wants numbers or a statistic's variable",
    ),
    "group_of_a_number": (
        with_(neurons={"a": 3}, each=["neurons"]),
        "neurons.a",
        "wants `all`, a list of numbers",
    ),
    "groups_in_one_case": (
        with_(neurons={"a": [1]}),
        "neurons",
        "has groups, but `each` has no neurons; add it there",
    ),
    "each_of_all_neurons": (
        with_(each=["neurons"]),
        "neurons",
        "wants numbers, or groups by name, where `each` has neurons",
    ),
    "each_of_a_statistics_neurons": (
        with_(each=["neurons"], neurons="t_tests.significant"),
        "neurons",
        "wants numbers, or groups by name",
    ),
    # Tokens
    "tokens_is_a_number": (with_(tokens=-1), "tokens", f"{POSITIONS}; has -1"),
    "unknown_tokens": (with_(tokens="first"), "tokens", f"{POSITIONS}; has 'first'"),
    "no_positions": (
        with_(tokens=[]),
        "tokens",
        "wants all, last, word, mask, a list of positions",
    ),
    "half_a_position": (with_(tokens=[1.5]), "tokens", "wants all, last, word, mask"),
    "position_twice": (with_(tokens=[2, 2]), "tokens", "has 2 twice"),
    "tokens_from_last": (
        with_(tokens={"from": "last"}),
        "tokens.from",
        "wants a position, word or mask; has 'last'",
    ),
    "tokens_from_nothing": (with_(tokens={}), "tokens.from", "wants a position, word or mask; has"),
    "tokens_to": (with_(tokens={"to": 3}), "tokens.to", "unknown key; known: from"),
    # What varies
    "each_is_a_name": (with_(each="layer"), "each", "wants a list of layer, head, position"),
    "each_of_layers": (
        with_(each=["layers"]),
        "each",
        "'layers' does not vary; did you mean 'layer'",
    ),
    "each_twice": (with_(each=["layer", "layer"]), "each", "has 'layer' twice"),
    "each_number": (with_(each=[3]), "each", "wants a list of layer, head, position"),
    "each_pair_of_no_patch": (
        with_(each=["pair"]),
        "each",
        "has pair, but only `patch` has pairs of texts; take it out",
    ),
    "each_amount_of_none": (
        with_(each=["amount"]),
        "each",
        "has amount, but the change has no list of them; take it out",
    ),
    "each_seed_of_none": (
        with_(each=["seed"], change={"scale": 2}),
        "each",
        "has seed, but the change has no list of them; take it out",
    ),
    "each_seed_of_the_default": (
        with_(each=["seed"], change={"noise": 0.5}),
        "each",
        "has seed, but the change has no list of them",
    ),
    "amounts_in_one_case": (
        with_(change={"scale": [0.5, 2]}),
        "change.scale",
        "is a list, but `each` has no amount; add it there",
    ),
    "one_amount_in_each": (
        with_(each=["amount"], change={"scale": 0.5}),
        "change.scale",
        "is no list, but `each` has amount; write a list",
    ),
    "seeds_in_one_case": (
        with_(change={"noise": 0.5, "seed": [0, 1]}),
        "change.seed",
        "is a list, but `each` has no seed; add it there",
    ),
    "one_seed_in_each": (
        with_(each=["seed"], change={"noise": 0.5, "seed": 0}),
        "change.seed",
        "is no list, but `each` has seed; write a list",
    ),
    "shares_in_one_case": (
        with_(change={"median": "tokens", "largest": [0.1, 0.2]}),
        "change.largest",
        "is a list, but `each` has no amount",
    ),
    # Changes
    "change_is_a_number": (
        with_(change=0),
        "change",
        "wants one of zero, scale, add, noise, patch",
    ),
    "change_misspelt": (with_(change="zeros"), "change", "did you mean 'zero'?"),
    "no_kind": (with_(change={}), "change", "wants one of zero, scale, add"),
    "two_kinds": (with_(change={"scale": 2, "add": 1}), "change", "name one"),
    "option_of_another": (
        with_(change={"scale": 2, "seed": 1}),
        "change.seed",
        "unknown key; known: scale",
    ),
    "zero_of_something": (
        with_(change={"zero": 1}),
        "change.zero",
        "takes no value; write `change: zero`",
    ),
    "scale_without_number": (
        with_(change="scale"),
        "change.scale",
        "wants a number, or a list; has",
    ),
    "scale_true": (with_(change={"scale": True}), "change.scale", "wants a number, or a list; has"),
    "scale_infinite": (
        with_(change={"scale": float("inf")}),
        "change.scale",
        "wants a number, or a list; has inf",
    ),
    "amount_twice": (
        with_(change={"scale": [1, 1.0]}, each=["amount"]),
        "change.scale",
        "has 1.0 twice",
    ),
    "no_amounts": (
        with_(change={"add": []}, each=["amount"]),
        "change.add",
        "wants a number, or a list; has an empty one",
    ),
    "vector_is_a_number": (
        with_(change={"add": 2, "vector": 3}),
        "change.vector",
        "wants a statistic's variable, or {texts: [a, b]}; has 3",
    ),
    "vector_without_variable": (
        with_(change={"add": 2, "vector": "means"}),
        "change.vector",
        "wants a statistic's variable, as in t_tests.significant; has 'means'",
    ),
    "vector_of_one_text": (
        with_(change={"add": 2, "vector": {"texts": [4]}}),
        "change.vector.texts",
        "wants two text numbers; has [4]",
    ),
    "vector_of_its_own_text": (
        with_(change={"add": 2, "vector": {"texts": [4, 4]}}),
        "change.vector.texts",
        "has 4 twice",
    ),
    "vector_of_no_texts": (
        with_(change={"add": 2, "vector": {"tokens": "last"}}),
        "change.vector.texts",
        "wants two text numbers; has None",
    ),
    "vector_of_unknown_tokens": (
        with_(change={"add": 2, "vector": {"texts": [4, 7], "tokens": "first"}}),
        "change.vector.tokens",
        POSITIONS,
    ),
    "vector_with_layer": (
        with_(change={"add": 2, "vector": {"texts": [4, 7], "layer": 3}}),
        "change.vector.layer",
        "unknown key",
    ),
    "negative_noise": (
        with_(change={"noise": -1}),
        "change.noise",
        "wants a number, 0 or more, or a list; has -1",
    ),
    "noise_of_variance": (
        with_(change={"noise": 1, "of": "var"}),
        "change.of",
        "wants sd; has 'var'",
    ),
    "negative_seed": (
        with_(change={"noise": 1, "seed": -1}),
        "change.seed",
        "wants a seed, 0 to 4294967295, or a list; has",
    ),
    "large_seed": (
        with_(change={"noise": 1, "seed": 2**32}),
        "change.seed",
        "wants a seed, 0 to 4294967295; has 4294967296",
    ),
    "patch_without_pairs": (
        with_(change="patch"),
        "change.patch",
        "wants a list of pairs of text numbers, the receiving text first, as in [[0, 1]]; has None",
    ),
    "patch_of_one_pair": (
        with_(change={"patch": [0, 1]}),
        "change.patch",
        "as in [[0, 1]]; has 0",
    ),
    "pair_of_three": (
        with_(change={"patch": [[0, 1, 2]]}),
        "change.patch",
        "as in [[0, 1]]; has [0, 1, 2]",
    ),
    "pair_twice": (
        with_(change={"patch": [[0, 1], [0, 1]]}),
        "change.patch",
        "has (0, 1) twice",
    ),
    "patch_from_a_word": (
        with_(change={"patch": [[0, 1]], "from": "last"}),
        "change.from",
        "wants a position of the giving text; has 'last'",
    ),
    "unknown_alignment": (
        with_(change={"patch": [[0, 1]], "align": "middle"}),
        "change.align",
        "wants start or end; has 'middle'",
    ),
    "aligned_at_one_position": (
        with_(change={"patch": [[0, 1]], "from": 2, "align": "end"}),
        "change.align",
        "means nothing beside `from`; take one out",
    ),
    "mean_of_nothing": (
        with_(change="mean"),
        "change.mean",
        "wants texts, heads, tokens, neurons, or a list; has None",
    ),
    "mean_over_layers": (
        with_(change={"mean": ["layers"]}),
        "change.mean",
        "wants texts or heads or tokens or neurons; has 'layers'",
    ),
    "axis_twice": (
        with_(change={"mean": ["tokens", "tokens"]}),
        "change.mean",
        "has 'tokens' twice",
    ),
    "permute_texts": (
        with_(change={"permute": "texts"}),
        "change.permute",
        "wants heads or tokens or neurons; has 'texts'",
    ),
    "large_share": (
        with_(change={"median": "tokens", "largest": 1.5}),
        "change.largest",
        "wants a share from 0 to 1, or a list; has 1.5",
    ),
    "largest_by_norm": (
        with_(change={"median": "tokens", "largest": 0.5, "by": "norm"}),
        "change.by",
        "wants value or magnitude; has 'norm'",
    ),
    "sorted_without_largest": (
        with_(change={"median": "tokens", "by": "magnitude"}),
        "change.by",
        "means nothing without `largest`; take it out",
    ),
    "largest_of_texts": (
        with_(change={"median": "texts", "largest": 0.5}),
        "change.largest",
        "means nothing over texts; take it out",
    ),
    "half_a_component": (
        with_(change={"project": 1.5}),
        "change.project",
        "wants a number of components, 1 or more; has 1.5",
    ),
    "no_component": (
        with_(change={"project": 0}),
        "change.project",
        "wants a number of components, 1 or more, or a list; has 0",
    ),
    "no_variance": (
        with_(change={"project": 0, "by": "variance"}),
        "change.project",
        "wants a share above 0",
    ),
    "more_than_all_variance": (
        with_(change={"project": 2, "by": "variance"}),
        "change.project",
        "wants a share above 0, at most 1, or a list; has 2",
    ),
    "project_by_magnitude": (
        with_(change={"project": 2, "by": "magnitude"}),
        "change.by",
        "wants components or variance; has 'magnitude'",
    ),
    "centered_over_heads": (
        with_(change={"project": 2, "centered": ["heads"]}),
        "change.centered",
        "wants tokens or neurons; has 'heads'",
    ),
    "centered_by_a_number": (
        with_(change={"project": 2, "centered": 3}),
        "change.centered",
        "wants tokens, neurons, or a list; has 3",
    ),
    "centered_by_zero": (
        with_(change={"project": 2, "centered": 0}),
        "change.centered",
        "wants tokens, neurons, or a list; has 0",
    ),
    "use_of_a_path": (
        with_(change={"use": "../shrink"}),
        "change.use",
        "wants the name of a function of changes.py; has '../shrink'",
    ),
    # What is read
    "read_is_a_name": (with_(read="logits"), "read", "wants the keys logits, log_probabilities"),
    "read_is_empty": (reading(), "read", "reads nothing; name logits, log_probabilities, kl"),
    "read_of_no_loss": (reading(loss=False), "read", "reads nothing; name logits"),
    "read_misspelt": (reading(logit="last"), "read.logit", "unknown key; did you mean 'logits'?"),
    "read_of_unknown_tokens": (reading(kl="first"), "read.kl", POSITIONS),
    "predictions_at_several_tokens": (
        reading(logits="last", kl="all"),
        "read.kl",
        "reads other tokens than logits; read the same, or declare a second intervention",
    ),
    "targets_of_nothing": (
        reading(kl="last", targets=[" mat"]),
        "read.targets",
        "means nothing without logits or log_probabilities; add one",
    ),
    "top_of_nothing": (
        reading(loss=True, top=5),
        "read.top",
        "means nothing without logits or log",
    ),
    "target_is_a_text": (
        reading(logits="last", targets=" mat"),
        "read.targets",
        "wants `clean`, `next`, or a list of texts, each one token; has ' mat'",
    ),
    "no_targets": (
        reading(logits="last", targets=[]),
        "read.targets",
        "wants `clean`, `next`, or a list of",
    ),
    "target_is_empty": (
        reading(logits="last", targets=[""]),
        "read.targets",
        "wants `clean`, `next`, or a",
    ),
    "target_is_a_number": (
        reading(logits="last", targets=[5]),
        "read.targets",
        "wants `clean`, `next`, or",
    ),
    "target_twice": (reading(logits="last", targets=["a", "a"]), "read.targets", "has 'a' twice"),
    "top_of_none": (
        reading(logits="last", top=0),
        "read.top",
        "wants a whole number, 1 or more; has",
    ),
    "loss_is_a_number": (reading(loss=1), "read.loss", "wants true; has 1"),
    "loss_at_tokens": (reading(loss="last"), "read.loss", "wants true; has 'last'"),
    "read_of_a_final_site": (reading(ln_final="last"), "read.ln_final", "unknown key"),
    "site_at_unknown_tokens": (reading(z="first"), "read.z", POSITIONS),
    "site_with_unknown_key": (
        reading(z={"token": "all"}),
        "read.z.token",
        "did you mean 'tokens'?",
    ),
    "site_as_norm": (
        reading(z={"as": "norm"}),
        "read.z.as",
        "wants values or difference or cosine; has 'norm'",
    ),
    "site_as_nothing": (
        reading(z={"as": []}),
        "read.z.as",
        "wants values, difference, cosine, or a",
    ),
    "site_of_no_layers": (reading(z={"layers": []}), "read.z.layers", "wants `all` or a list of"),
    "site_at_unknown_position": (reading(z={"tokens": 3}), "read.z.tokens", POSITIONS),
    "sites_at_several_tokens": (
        reading(z="all", q="last"),
        "read",
        "reads sites at several choices of tokens or layers; declare an intervention for each",
    ),
    "sites_of_several_layers": (
        reading(z="all", q={"layers": [1]}),
        "read",
        "reads sites at several choices of tokens or layers",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_declared_is_told_in_one_line(fault):
    entry, keys, message = FAULTS[fault]
    with pytest.raises(DeclarationError) as caught:
        declared(entry)
    assert caught.value.keys == tuple(filter(None, keys.split(".")))
    assert message in caught.value.fault
    assert str(caught.value) == ": ".join(filter(None, (keys, caught.value.fault)))
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, MicrotomeError)


def test_the_least_that_can_be_declared():
    assert declared(BASE) == Intervention(
        site="z",
        each=(),
        layers=None,
        heads=None,
        neurons=None,
        tokens=Tokens("all"),
        change=Change("zero"),
        read=Read(predictions=("logits",), tokens=Tokens("last")),
    )


def test_a_share_of_the_depth_is_a_layer_of_each_model():
    shares = reading(z={"tokens": "last", "layers": ["100%"]})
    found = declared(shares | {"layers": ["20%", 4, "21%"]})
    assert (found.layers, found.read.sites["z"].layers) == ((4, "20%", "21%"), ("100%",))
    of_six, of_thirty = found.at_depth(6), found.at_depth(30)
    assert (of_six.layers, of_six.read.sites["z"].layers) == ((1, 4), (5,))
    assert (of_thirty.layers, of_thirty.read.sites["z"].layers) == ((4, 6), (29,))
    assert declared(BASE).at_depth(6) == declared(BASE)


def test_where():
    array = xr.DataArray(np.array([True, False]), dims="n_heads")
    found = declared(
        with_(
            each=["neurons", "layer"],
            layers=[3, 1],
            heads=array,
            neurons={"him": "him_tests.significant", "few": [5, 3], "own": array},
        )
    )
    assert found.each == ("neurons", "layer")
    assert found.layers == (1, 3)
    assert found.heads is array
    assert list(found.neurons) == ["him", "few", "own"]
    assert found.neurons["him"] == Reference("him_tests", "significant")
    assert found.neurons["few"] == (5, 3)
    assert found.references == {("neurons", "him"): Reference("him_tests", "significant")}
    assert declared(with_(neurons=range(3))).neurons == (0, 1, 2)
    assert declared(with_(heads="study.t_tests.significant")).references == {
        ("heads",): Reference("study.t_tests", "significant")
    }


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("word", Tokens("word")),
        ([0, -1], Tokens("positions", (0, -1))),
        ({"from": -3}, Tokens("positions", (-3,), onwards=True)),
        ({"from": "word"}, Tokens("word", onwards=True)),
        ({"from": "mask"}, Tokens("mask", onwards=True)),
    ],
)
def test_tokens(said, meant):
    assert declared(with_(tokens=said)).tokens == meant
    assert declared(reading(kl=said)).read.tokens == meant
    assert declared(reading(z=said)).read.sites["z"].tokens == meant


def shrink(values, case):
    return values * (1 - case.amount)


@pytest.mark.parametrize(
    ("said", "each", "meant"),
    [
        ({"scale": 0.5}, [], Change("scale", (0.5,))),
        ({"scale": [0.5, 2]}, ["amount"], Change("scale", (0.5, 2.0))),
        (
            {"add": -2, "vector": "directions.mean"},
            [],
            Change("add", (-2.0,), vector=Reference("directions", "mean")),
        ),
        (
            {"add": 2, "vector": {"texts": [4, 7]}},
            [],
            Change("add", (2.0,), vector=Vector((4, 7), Tokens("last"))),
        ),
        (
            {"noise": 0.5, "of": "sd", "seed": [3, 4]},
            ["seed"],
            Change("noise", (0.5,), (3, 4), of_sd=True),
        ),
        (
            {"patch": [[0, 1], [2, 1]], "align": "end"},
            ["pair"],
            Change("patch", pairs=((0, 1), (2, 1)), align="end"),
        ),
        ({"patch": [[0, 1]], "from": -2}, [], Change("patch", pairs=((0, 1),), position=-2)),
        (
            {"median": ["tokens", "neurons"], "largest": 0.1, "by": "magnitude"},
            [],
            Change("median", (0.1,), over=("tokens", "neurons"), by="magnitude"),
        ),
        ({"mean": "texts"}, [], Change("mean", over=("texts",), by="value")),
        (
            {"permute": ["heads", "tokens"], "seed": 2},
            [],
            Change("permute", seeds=(2,), over=("heads", "tokens")),
        ),
        ({"project": 3}, [], Change("project", (3.0,), by="components", centered=("tokens",))),
        (
            {"project": [0.5, 1], "by": "variance", "centered": []},
            ["amount"],
            Change("project", (0.5, 1.0), by="variance"),
        ),
        ({"use": "shrink", "amount": 0.5}, [], Change("use", (0.5,), function="shrink")),
        (shrink, [], Change("use", function=shrink)),
    ],
)
def test_changes(said, each, meant):
    assert declared(with_(change=said, each=each)).change == meant


def test_what_is_read():
    found = declared(
        reading(
            kl="all",
            log_probabilities="all",
            targets=[" mat", " hat"],
            top=5,
            loss=True,
            resid_post={"tokens": [2], "layers": [3, 1], "as": ["values", "cosine"]},
            z={"tokens": [2], "layers": [1, 3]},
        )
    ).read
    assert found == Read(
        predictions=("log_probabilities", "kl"),
        tokens=Tokens("all"),
        targets=(" mat", " hat"),
        top=5,
        loss=True,
        sites={
            "z": SiteRead(Tokens("positions", (2,)), (1, 3), ("difference",)),
            "resid_post": SiteRead(Tokens("positions", (2,)), (1, 3), ("values", "cosine")),
        },
    )
    for of_token in ("clean", "next"):
        assert declared(reading(logits="last", targets=of_token)).read.targets == of_token


@pytest.mark.parametrize(
    "keys",
    [
        {"change": {"mean": "tokens"}, "each": ["layer", "position"]},
        {"change": {"permute": "heads"}, "each": ["head"]},
        {"change": {"permute": ["heads", "tokens"]}, "heads": [2], "tokens": "last"},
        {"change": {"median": "neurons"}, "neurons": [3]},
        {"change": {"project": 1}, "tokens": [-1]},
    ],
)
def test_a_change_along_axes_of_one_value_is_refused(keys):
    with pytest.raises(DeclarationError, match=r"changes nothing along .*; choose more"):
        declared(with_(**keys))


def test_what_numpy_and_python_write_otherwise():
    plain = {"layers": [1, 2], "tokens": [0, 3], "each": ["amount"]}
    plain |= {"change": {"scale": [0.0, 0.5, 1.0]}, "read": {"z": {"layers": [1, 2]}}}
    other = {"layers": np.array([1, 2]), "tokens": (0, np.int64(3)), "each": ("amount",)}
    other |= {"change": {"scale": np.linspace(0, 1, 3)}, "read": {"z": {"layers": range(1, 3)}}}
    assert declared(with_(**other)) == declared(with_(**plain))
