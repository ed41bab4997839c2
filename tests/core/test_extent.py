"""How many changed texts an intervention has, and how much is kept of each."""

from collections import Counter

import numpy as np
import pytest

from microtome.interventions.cases import Cases, texts_of
from microtome.interventions.declared import declared
from microtome.interventions.extent import extent

SIZES = {"n_layers": 3, "d_model": 16, "n_heads": 4, "n_kv_heads": 2, "d_head": 4, "d_mlp": 64}
SIZES |= {"d_vocab": 128, "n_context": 64}
SILENCE = {"site": "z", "change": "zero", "read": {"logits": "last"}}


@pytest.mark.parametrize(
    ("keys", "branches", "predicted", "kept"),
    [
        ({"each": ["layer", "head"]}, {(n, m): 4 for n in range(3) for m in (5, 7)}, 1, 128),
        ({"site": "k", "each": ["head"], "layers": [1, 2]}, {(1, 5): 2, (1, 7): 2}, 1, 128),
        ({"each": ["position"], "read": {"loss": True}}, {(0, 5): 5, (0, 7): 7}, 7, 1),
        ({"each": ["position"], "tokens": {"from": 3}}, {(0, 5): 2, (0, 7): 4}, 1, 128),
        ({"tokens": {"from": -2}, "each": ["position"]}, {(0, 5): 2, (0, 7): 2}, 1, 128),
        (
            {"each": ["amount", "seed"], "change": {"noise": [1, 2], "seed": [0, 1, 2]}},
            {(0, 5): 6, (0, 7): 6},
            *(1, 128),
        ),
        (
            {"each": ["layer", "pair"], "change": {"patch": [[1, 0], [1, 1]]}, "layers": [2]},
            {(2, 7): 2},
            *(1, 128),
        ),
        (
            {"site": "post", "each": ["neurons"], "neurons": {"some": "t.chosen", "few": [1]}}
            | {"read": {"logits": "all", "targets": [" a", " b"], "kl": "all"}},
            {(0, 5): 2, (0, 7): 2},
            *(7, 7 * 3),
        ),
        (
            {"read": {"logits": "all", "targets": "next", "kl": "all", "logits_difference": "all"}},
            {(0, 5): 1, (0, 7): 1},
            *(7, 7 * 3),
        ),
        # Values of two layers at two tokens, and a norm of each.
        (
            {"read": {"z": {"tokens": [0, 1], "layers": [0, 2], "as": ["values", "difference"]}}},
            {(0, 5): 1, (0, 7): 1},
            *(0, 2 * 2 * (16 + 1)),
        ),
    ],
)
def test_how_many_changed_texts_an_intervention_has(keys, branches, predicted, kept):
    found = extent(declared(SILENCE | keys), SIZES, [5, 7])
    del found["beside"]
    assert found == {"branches": branches, "predicted": predicted, "kept": kept}


@pytest.mark.parametrize(
    ("keys", "beside"),
    [
        ({}, 7 * 16),
        ({"read": {"logits": "last", "post": "last"}}, 7 * (16 + 64)),
        ({"site": "post", "read": {"kl": "all", "post": "last"}}, 7 * 64 + 7 * 128),
        ({"read": {"logits_difference": "last"}}, 7 * 16 + 128),
    ],
)
def test_what_is_held_of_the_clean_run(keys, beside):
    """The values of a layer at the changed and the read sites, and the logits for divergences."""
    assert extent(declared(SILENCE | keys), SIZES, [5, 7])["beside"] == beside


@pytest.mark.parametrize(
    "keys",
    [
        {"each": ["layer", "head"]},
        {"each": ["seed", "position", "layer"], "change": {"noise": 1.0, "seed": [3, 1]}},
        {"each": ["neurons"], "neurons": [1, 3], "layers": [1, 2], "tokens": "last"},
        {"each": ["layer"], "change": {"patch": [[0, 1], [1, 0]], "from": 0}},
        {"each": ["layer", "pair"], "change": {"patch": [[0, 1], [1, 0]], "align": "end"}},
    ],
)
def test_the_changed_texts_are_those_that_run(keys):
    """But for texts of unequal length, all of which have as many tokens as the longest."""
    columns = {"sequence": np.repeat([0, 1], 6), "token_id": np.arange(12)}
    intervention = declared(SILENCE | keys)
    branches = Cases(intervention, SIZES, texts_of(columns)).branches()
    expected = Counter((branch.layers[0], len(branch.text.ids)) for branch in branches)
    assert extent(intervention, SIZES, [6, 6])["branches"] == expected
