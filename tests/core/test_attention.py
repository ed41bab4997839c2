"""What attention is called with: queries and keys after rotary positions, scores and pattern."""

import math

import numpy as np
import pytest
import torch
from conftest import CONFIGS
from hooked import hooked, load, sites_of, swept
from test_families import FAMILIES, tiny
from transformers import AutoModelForCausalLM

from microtome.models.checkpoint import read_config
from microtome.sites import ATTENTION_SITES

#: Texts of unequal length, longer than the tiny models' windows, down to a single token.
LENGTHS = [7, 1, 12, 7, 5]
SEQUENCES = [np.random.default_rng(i).integers(3, 101, length) for i, length in enumerate(LENGTHS)]
LONGEST = max(LENGTHS)
STARTS = np.cumsum([0, *LENGTHS])
#: Grouped keys, windows by mask (SDPA) and in eager mode, softcap, sinks, ALiBi, partial rotary
#: positions, norms of heads, attention code of their own, and attention that looks ahead.
NAMES = ["gpt2", "gpt_neo", "gpt_neox", "llama", "mistral", "qwen3", "gemma2", "gpt_oss", "bloom"]
NAMES += ["mpt", "gptj", "both_ways"]


@pytest.fixture(scope="module")
def models(checkpoints, tmp_path_factory):
    folder = tmp_path_factory.mktemp("attention")
    others = {
        "both_ways": ("bert", FAMILIES["bert"][1] | {"is_decoder": False}),
        "gpt_oss": ("gpt_oss", FAMILIES["gpt_oss"][1] | {"sliding_window": 3}),
    }
    others |= {name: FAMILIES[name] for name in ("bloom", "mpt", "gptj")}
    return checkpoints | {name: tiny(folder / name, *others[name]) for name in others}


def of_texts(array):
    return [array[a:b] for a, b in zip(STARTS, STARTS[1:], strict=False)]


@pytest.mark.parametrize("name", NAMES)
def test_pattern_is_that_of_eager_attention(models, name):
    arrays, _ = swept(models[name], SEQUENCES, ["pattern"], range(4))
    model = AutoModelForCausalLM.from_pretrained(
        models[name], dtype=torch.float32, attn_implementation="eager"
    ).eval()
    for number, ids in enumerate(SEQUENCES):
        with torch.no_grad():
            layers = model(torch.tensor(ids[None]), output_attentions=True).attentions
        for layer, expected in enumerate(layers):
            pattern = of_texts(arrays[layer, "pattern"])[number].transpose(1, 0, 2)
            assert np.isnan(pattern[:, :, len(ids) :]).all()
            found, expected = pattern[:, :, : len(ids)], expected[0].numpy()
            np.testing.assert_array_equal(np.isnan(found), expected == 0)
            np.testing.assert_allclose(np.nan_to_num(found), expected, rtol=0, atol=1e-5)
