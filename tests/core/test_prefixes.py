"""What texts share is computed once, and nothing changes but the time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONFIGS
from hooked import columns, hooked, load, sites_of, swept, taps_at
from torch import nn
from transformers import AutoTokenizer
from transformers.pytorch_utils import Conv1D

from microtome.sweeps.batches import batched
from microtome.sweeps.prefixes import Distinct, Sharing, prefix_classes
from microtome.sweeps.sweep import sweep
from microtome.texts.stimuli import read_set

#: Ten texts of six tokens with the first five in common, one of them twice.
PROMPTS = [np.array([7, 3, 99, 3, 12, last]) for last in (1, 2, 3, 4, 5, 6, 7, 8, 9, 9)]
DISTINCT = 5 + 9


@pytest.fixture
def rows(monkeypatch):
    """How many rows each call of a linear layer computes."""
    counts = []
    for kind in (nn.Linear, Conv1D):
        forward = kind.forward

        def counted(self, values, forward=forward):
            counts.append(values.numel() // values.shape[-1])
            return forward(self, values)

        monkeypatch.setattr(kind, "forward", counted)
    return counts


def test_distinct_prefixes_by_hand():
    distinct = Distinct(prefix_classes(np.array([[1, 2, 3], [1, 2, 4], [1, 2, 3], [2, 2, 3]])))
    assert distinct.first.tolist() == [0, 9, 1, 10, 2, 5, 11]
    assert distinct.which.tolist() == [0, 2, 4, 0, 2, 5, 0, 2, 4, 1, 3, 6]
    assert distinct.worthwhile  # 7 of 12
    assert not Distinct(
        prefix_classes(np.array([[1, 2, 3], [1, 4, 3], [3, 2, 4], [4, 2, 3]]))
    ).worthwhile


def linear_layers(model):
    """The types and shapes of the linear layers in a model's blocks."""
    layers = [layer for layer in model.base_model.modules() if type(layer) in (nn.Linear, Conv1D)]
    return [(type(layer), tuple(layer.weight.shape)) for layer in layers]


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_the_hooked_full_forward(checkpoints, rows, name):
    sites = sites_of(name)
    arrays, _ = swept(checkpoints[name], PROMPTS, sites, [0, 1, 2, 3])
    model = load(checkpoints[name])
    assert rows.count(DISTINCT) == len(linear_layers(model))
    assert rows.count(60) == len(set(linear_layers(model)))  # the first of each shape, to compare
    expected = hooked(model, name, PROMPTS)
    for key, values in arrays.items():
        mine = values.reshape(10, 6, -1)
        np.testing.assert_array_equal(mine, expected[key], err_msg=str(key))


def test_smollm2_reading_the_study_of_categories(smollm2, rows):
    stimuli = read_set(Path(__file__).parents[2] / "stimuli" / "categories.yaml").stimuli
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    everything = tokenizer([stimulus.text for stimulus in stimuli])["input_ids"]
    texts = [np.array(ids) for ids in everything if len(ids) == 5]
    assert len(texts) > 20  # the word is one token
    arrays, _ = swept(smollm2, texts, sites_of("llama"), [0, 14, 29], batch_tokens=5 * len(texts))
    model = load(smollm2)
    assert rows.count(4 + len(texts)) == len(linear_layers(model))
    expected = hooked(model, "llama", texts)
    for key, values in arrays.items():
        mine = values.reshape(len(texts), 5, -1)
        np.testing.assert_array_equal(mine, expected[key], err_msg=str(key))


def test_texts_that_share_little_are_computed_whole(checkpoints, rows):
    texts = [np.arange(1 + i, 7 + i) for i in range(10)]
    taps = taps_at(checkpoints["llama"])
    for _ in sweep(checkpoints["llama"], batched(columns(texts), 60), ["q"], [3], taps=taps):
        pass
    assert max(rows) == 60
    assert not {n for n in rows if 4 < n < 60}  # 4: the first block is asked what it returns


def test_a_layer_that_sees_more_than_what_precedes_computes_all():
    """Values that differ where prefixes are equal, as where attention looks ahead."""
    torch.manual_seed(0)
    layer = nn.Linear(8, 16)
    values = torch.randn(10, 6, 8)
    expected = layer(values)
    with Sharing(layer).of(Distinct(prefix_classes(np.stack(PROMPTS)))):
        assert torch.equal(layer(values), expected)


def test_a_layer_whose_bits_depend_on_the_number_of_rows_computes_all(monkeypatch):
    torch.manual_seed(0)
    forward = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: forward(self, x) + x.numel())
    layer = nn.Linear(8, 16)
    distinct = Distinct(prefix_classes(np.stack(PROMPTS)))
    values = torch.randn(DISTINCT, 8)[distinct.which].unflatten(0, distinct.shape)
    expected = layer(values)
    with Sharing(layer).of(distinct):
        for _ in range(3):
            assert torch.equal(layer(values), expected)
    assert torch.equal(layer(values), expected)
