"""An architecture that transformers gains later, with names of its own, has its sites."""

import numpy as np
import pytest
import torch
from hooked import columns
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput
from transformers.models.auto import configuration_auto, modeling_auto

from microtome.models.anatomy import find_sites
from microtome.models.fetch import fetch
from microtome.models.sources import Folder
from microtome.sweeps.batches import batched
from microtome.sweeps.sweep import sweep


class LaterConfig(PretrainedConfig):
    """What configs have in common; it says nothing of how a block is built."""

    model_type = "later"
    vocab_size: int = 101
    hidden_size: int = 24
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 8
    intermediate_size: int = 44


class Mixer(nn.Module):
    """Attention of its own: values, queries and keys of each of two groups from one projection."""

    def __init__(self):
        super().__init__()
        self.inward, self.outward = nn.Linear(24, 64), nn.Linear(32, 24)

    def forward(self, x):
        groups = self.inward(x).unflatten(-1, (2, 4, 8)).permute(0, 2, 3, 1, 4)
        v, q, k = groups[:, :, :1], groups[:, :, 1:3], groups[:, :, 3:]
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        scores = (q @ k.transpose(-1, -2) / 3).masked_fill(later, -torch.inf)
        read = scores.softmax(dim=-1) @ v
        return self.outward(read.flatten(1, 2).transpose(1, 2).flatten(2))


class Cell(nn.Module):
    """A block: what the MLP makes is halved."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.mixer = nn.LayerNorm(24), nn.LayerNorm(24), Mixer()
        self.up, self.down = nn.Linear(24, 88), nn.Linear(44, 24)

    def forward(self, x):
        x = x + self.mixer(self.a(x))
        factor, gate = self.up(self.b(x)).chunk(2, dim=-1)
        return x + 0.5 * self.down(factor * nn.functional.silu(gate))


class LaterModel(PreTrainedModel):
    config_class = LaterConfig

    def __init__(self, config):
        super().__init__(config)
        self.words = nn.Embedding(101, 24)
        self.cells = nn.ModuleList(Cell() for _ in range(2))
        self.last = nn.LayerNorm(24)
        self.post_init()

    def forward(self, input_ids, use_cache=False):
        x = self.words(input_ids)
        for cell in self.cells:
            x = cell(x)
        return BaseModelOutput(last_hidden_state=self.last(x))


class LaterForCausalLM(PreTrainedModel):
    config_class, base_model_prefix = LaterConfig, "trunk"

    def __init__(self, config):
        super().__init__(config)
        self.trunk, self.head = LaterModel(config), nn.Linear(24, 101)
        self.post_init()

    def forward(self, input_ids, use_cache=False):
        return CausalLMOutput(logits=self.head(self.trunk(input_ids).last_hidden_state))


@pytest.fixture
def checkpoint(monkeypatch, tmp_path):
    """A checkpoint of it, while transformers has it."""
    set_ = monkeypatch.setitem
    set_(configuration_auto.CONFIG_MAPPING_NAMES, "later", "LaterConfig")
    set_(configuration_auto.CONFIG_MAPPING._extra_content, "later", LaterConfig)
    set_(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "later", "LaterForCausalLM")
    set_(AutoModelForCausalLM._model_mapping._extra_content, LaterConfig, LaterForCausalLM)
    torch.manual_seed(0)
    model = LaterForCausalLM(LaterConfig())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "origin")
    fetch(Folder(tmp_path / "origin"), tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_all_its_sites_are_found(checkpoint):
    found = find_sites(checkpoint)
    assert found.absent == {"router": "no experts"}
    ids = np.arange(3, 10)
    batches = batched(columns([ids]), 1024)
    [section] = sweep(checkpoint, batches, list(found.taps), [1], taps=found.taps)
    model = LaterForCausalLM.from_pretrained(checkpoint).eval()
    seen = {}
    cell = model.trunk.cells[1]
    for name, module in (("fused", cell.mixer.inward), ("up", cell.up), ("down", cell.down)):
        module.register_forward_hook(
            lambda module, args, output, name=name: seen.update({name: output[0].detach().numpy()})
        )
    model(torch.from_numpy(ids[None]))
    groups = seen["fused"].reshape(7, 2, 4, 8)
    expected = {
        "v": groups[:, :, 0],
        "q": groups[:, :, 1:3].reshape(7, 4, 8),
        "k": groups[:, :, 3],
        "pre": seen["up"][:, 44:],
        "pre_linear": seen["up"][:, :44],
        "mlp_out": 0.5 * seen["down"],
    }
    for site, values in expected.items():
        np.testing.assert_array_equal(section.values[site], values, err_msg=site)
