"""Branches of one sweep against one full forward per intervention, hooked by hand."""

import numpy as np
import pytest
import torch
from conftest import CONFIGS
from transformers import AutoModelForCausalLM

from microtome.sweeps.interventions import scaled_blocks

IDS = np.random.default_rng(0).integers(1, 101, 9)
#: A log-softmax is a difference of float32 numbers around 20, so its error does not shrink with it.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def hooked(checkpoint, ids, factor):
    """Log-probabilities after the text: clean, then with each block's output scaled."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    blocks = next(m for m in lists if len(m) == model.config.num_hidden_layers)

    def predict():
        with torch.no_grad():
            return model(torch.tensor(ids)[None]).logits[0, -1].log_softmax(-1).numpy()

    def scale(module, args, output):
        if isinstance(output, tuple):
            return (factor * output[0], *output[1:])
        return factor * output

    rows = [predict()]
    for block in blocks:
        handle = block.register_forward_hook(scale)
        rows.append(predict())
        handle.remove()
    return np.stack(rows)


@pytest.mark.parametrize("factor", [0.8, -1.5])
@pytest.mark.parametrize("name", CONFIGS)
def test_equals_one_full_forward_per_block(checkpoints, name, factor):
    found = scaled_blocks(checkpoints[name], IDS, factor)
    assert found.shape == (5, 101)
    np.testing.assert_allclose(found, hooked(checkpoints[name], IDS, factor), **CLOSE)


def test_equals_one_full_forward_per_block_where_an_argument_counts_the_rows(tmp_path):
    """BLOOM's ALiBi biases are (rows * heads, 1, position)."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(
        "bloom", vocab_size=101, hidden_size=24, n_layer=3, n_head=4, seq_length=64
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    np.testing.assert_allclose(
        scaled_blocks(tmp_path, IDS, 0.5), hooked(tmp_path, IDS, 0.5), **CLOSE
    )


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo", "gemma3"])
def test_a_text_of_one_token(checkpoints, name):
    found = scaled_blocks(checkpoints[name], IDS[:1], 0.8)
    np.testing.assert_allclose(found, hooked(checkpoints[name], IDS[:1], 0.8), **CLOSE)


def test_factor_one_changes_nothing(checkpoints):
    clean, *scaled = scaled_blocks(checkpoints["llama"], IDS, 1.0)
    for row in scaled:
        np.testing.assert_allclose(row, clean, rtol=1e-6)


def test_reads_each_blocks_weights_once(checkpoints, monkeypatch):
    from microtome.models.mapped import MappedModel

    read = []
    original = MappedModel.block_weights
    monkeypatch.setattr(
        MappedModel, "block_weights", lambda self, n: read.append(n) or original(self, n)
    )
    scaled_blocks(checkpoints["llama"], IDS, 0.8)
    # The first read of block 0 asks what a block returns; the sweep itself begins after it.
    assert read == [0, 0, 1, 2, 3]


def test_smollm2(smollm2):
    ids = np.array([504, 1867, 2229, 314, 13247])
    found = scaled_blocks(smollm2, ids, 0.8)
    assert found.shape[0] == 31
    np.testing.assert_allclose(found, hooked(smollm2, ids, 0.8), **CLOSE)
