"""An intervention that does not fit a model or the texts is told in one line."""

import numpy as np
import pytest
import xarray as xr
from hooked import columns
from intervening import MARKS, TABLE, TEXTS, at_site, swept

from microtome.errors import MicrotomeError

MISFITS = {
    "layer": ("gpt2", at_site("z", "zero", layers=[4]), "4"),
    "read_layer": ("gpt2", at_site("z", "zero", read={"z": {"layers": [1, 4]}}), "4"),
    "head": ("gpt2", at_site("z", "zero", heads=[4]), "4"),
    "head_of_groups": ("llama", at_site("k", "zero", heads=[2]), "2"),
    "neuron": ("gpt2", at_site("resid_post", "zero", neurons=[3, 24]), "24"),
    "neuron_in_a_head": ("gpt2", at_site("z", "zero", neurons=[6]), "6"),
    "neuron_of_a_group": (
        "llama",
        at_site("post", "zero", each=["neurons"], neurons={"a": [1], "b": [40]}),
        "40",
    ),
    "site": ("gpt_neox", at_site("resid_mid", "zero"), "resid_mid"),
    "gated_site": ("gpt2", at_site("pre_linear", "zero"), "pre_linear"),
    "read_site": ("gpt_neox", at_site("z", "zero", read={"resid_mid": "all"}), "resid_mid"),
    "position": ("gpt2", at_site("z", "zero", tokens=[5]), "5"),
    "position_from_the_end": ("gpt2", at_site("z", "zero", tokens=[-6]), "-6"),
    "position_onwards": ("gpt2", at_site("z", "zero", tokens={"from": 5}), "5"),
    "read_position": ("gpt2", at_site("z", "zero", read={"logits": [6]}), "6"),
    "read_position_of_a_site": ("gpt2", at_site("z", "zero", read={"q": [6]}), "6"),
    "no_word": ("gpt2", at_site("z", "zero", tokens="word"), "word"),
    "no_mask": ("gpt2", at_site("z", "zero", tokens={"from": "mask"}), "mask"),
    "read_of_no_word": ("gpt2", at_site("z", "zero", read={"kl": "word"}), "word"),
    "positions_that_differ_in_number": (
        "gpt2",
        at_site("z", "zero", each=["position"], tokens="all"),
        "position",
    ),
    "receiver": ("gpt2", at_site("z", {"patch": [[3, 0]]}), "3"),
    "giver": ("gpt2", at_site("z", {"patch": [[0, 3]]}), "3"),
    "unequal_texts": ("gpt2", at_site("z", {"patch": [[0, 1]]}), "align"),
    "unequal_texts_the_other_way": ("gpt2", at_site("z", {"patch": [[1, 0]]}), "align"),
    "aligned_beyond_the_giver": (
        "gpt2",
        at_site("z", {"patch": [[0, 1]], "align": "start"}, tokens=[5]),
        "1",
    ),
    "aligned_before_the_giver": (
        "gpt2",
        at_site("z", {"patch": [[0, 1]], "align": "end"}, tokens=[1]),
        "1",
    ),
    "position_of_the_giver": ("gpt2", at_site("z", {"patch": [[0, 1]], "from": 5}), "5"),
    "pairs_of_unequal_rows": (
        "gpt2",
        at_site("z", {"patch": [[0, 2], [1, 2]], "from": 1}, each=["pair"]),
        "pair",
    ),
    "text_of_a_vector": ("gpt2", at_site("z", {"add": 1, "vector": {"texts": [0, 3]}}), "3"),
    "position_of_a_vector": (
        "gpt2",
        at_site("z", {"add": 1, "vector": {"texts": [0, 1], "tokens": [5]}}),
        "5",
    ),
    "mean_of_texts_of_unequal_numbers": ("gpt2", at_site("z", {"mean": "texts"}, tokens="all"), ""),
    "target_of_two_tokens": (
        "gpt2",
        at_site("z", "zero", read={"logits": "last", "targets": ["<5>", "<5><7>"]}),
        "<5><7>",
    ),
    "more_than_the_vocabulary": (
        "gpt2",
        at_site("z", "zero", read={"logits": "last", "top": 102}),
        "102",
    ),
    "heads_of_another_model": (
        "gpt2",
        at_site("z", "zero", heads=xr.DataArray(np.ones(5, bool), dims="n_heads")),
        "heads",
    ),
    "heads_of_other_layers": (
        "gpt2",
        at_site(
            *("z", "zero"),
            heads=xr.DataArray(
                np.ones((2, 4), bool), dims=("layer", "n_heads"), coords={"layer": [0, 1]}
            ),
        ),
        "layer",
    ),
    "heads_that_are_no_choice": (
        "gpt2",
        at_site("z", "zero", heads=xr.DataArray(np.full(4, 0.5), dims="n_heads")),
        "heads",
    ),
    "neurons_of_another_site": (
        "gpt2",
        at_site("post", "zero", neurons=xr.DataArray(np.ones(24, bool), dims="d_model")),
        "neurons",
    ),
    "vector_of_another_site": (
        "gpt2",
        at_site("post", {"add": 1, "vector": xr.DataArray(np.ones(24), dims="d_model")}),
        "vector",
    ),
    "change_of_another_shape": (
        "gpt2",
        at_site("z", {"use": lambda values, case: values[1:]}),
        "(2, 4, 6)",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_is_told_in_one_line(checkpoints, misfit):
    name, entry, message = MISFITS[misfit]
    with pytest.raises(MicrotomeError) as caught:
        swept(checkpoints[name], entry)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_text_without_the_word_is_told_in_one_line(checkpoints):
    marks = {"in_word": np.where(TABLE["sequence"] == 1, 0, MARKS["in_word"])}
    with pytest.raises(MicrotomeError, match="text 1 has no word"):
        swept(checkpoints["gpt2"], at_site("z", "zero", tokens="word"), TABLE | marks)


def test_the_loss_of_one_token_is_told_in_one_line(checkpoints):
    table = columns([TEXTS[0], TEXTS[1][:1]])
    with pytest.raises(MicrotomeError, match="text 1"):
        swept(checkpoints["gpt2"], at_site("z", "zero", tokens="all", read={"loss": True}), table)


def test_noise_of_one_value_s_own_sd_is_refused(checkpoints):
    change = {"noise": 0.5, "of": "sd"}
    one = at_site("mlp_out", change, neurons=[3], tokens="last")
    with pytest.raises(MicrotomeError, match="one value has no standard deviation"):
        swept(checkpoints["gpt2"], one)


@pytest.mark.parametrize("found", [None, 1.0, np.ones(3)])
def test_a_change_that_returns_no_tensor_is_told_in_one_line(checkpoints, found):
    with pytest.raises(MicrotomeError, match="return a tensor"):
        swept(checkpoints["gpt2"], at_site("z", lambda values, case: found))
