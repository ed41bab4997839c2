"""Tiny encoders and models without head, what the sweep has of them, and plain forwards."""

import json

import numpy as np
import torch
from conftest import GROUPED, SIZES
from hooked import columns
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
)

from microtome.models.fetch import fetch, manifest
from microtome.models.sources import Folder
from microtome.sweeps.batches import batched
from microtome.sweeps.sweep import sweep

#: Texts that begin alike, the first two the same to their end.
TEXTS = [[2, 11, 12, 3], [2, 11, 12, 3], [2, 11, 12, 13, 14, 3], [2, 11, 12, 13, 15, 3]]
ENCODER = SIZES | {"num_hidden_layers": 3, "intermediate_size": 40, "pad_token_id": 0}
FAMILIES = {
    name: (name, ENCODER | more)
    for name, more in {
        "albert": {"embedding_size": 16},
        "bert": {},
        "camembert": {"pad_token_id": 1},
        "convbert": {"embedding_size": 24},
        "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        "distilbert": {},
        "electra": {"embedding_size": 16},
        "esm": {"mask_token_id": 4},
        "eurobert": {},
        "megatron-bert": {},
        "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 4},
        "mpnet": {"pad_token_id": 1},
        "nomic_bert": {},
        "roberta": {"pad_token_id": 1},
        "roberta-prelayernorm": {"pad_token_id": 1},
    }.items()
}
AUTO = {"masked": AutoModelForMaskedLM, "none": AutoModel, "causal": AutoModelForCausalLM}


def made(model, folder, **config):
    """A checkpoint folder of a model whose weights are all of unit-like scale."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder / "origin")
    if config:
        file = folder / "origin" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
    fetch(Folder(folder / "origin"), folder / "checkpoint")
    return folder / "checkpoint"


def tiny(folder, family, head, **sizes):
    """A checkpoint folder of a tiny model with or without head, with random weights."""
    torch.manual_seed(0)
    model_type, own = FAMILIES.get(family, (family, GROUPED | {"num_hidden_layers": 3}))
    return made(AUTO[head].from_config(AutoConfig.for_model(model_type, **own | sizes)), folder)


def head_of(checkpoint):
    """What a checkpoint's manifest says of its head."""
    return manifest(checkpoint, name="", source="", revision="")["head"]


def swept(checkpoint, final_sites, texts=TEXTS):
    """What the sweep has of each layer and site, a row for each token."""
    found, sites = {}, ["resid_pre", "resid_post"]
    batches = batched(columns(texts), 1024)
    for section in sweep(checkpoint, batches, sites, range(3), final_sites, taps={}):
        for site, values in section.values.items():
            rows = found.setdefault((section.layer, site), {})
            rows |= dict(zip(section.rows, values, strict=True))
    return {key: np.stack([rows[row] for row in sorted(rows)]) for key, rows in found.items()}


def plain(model, texts=TEXTS):
    """The same of plain forwards of texts of one length."""
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    blocks = next(m for m in lists if len(m) == 3 or "Albert" in type(model).__name__)
    found = {}

    def note(module, args, kwargs, output):
        layer = sum(site == "resid_pre" for _, site in seen)
        seen[layer, "resid_pre"] = args[0] if args else kwargs["hidden_states"]
        seen[layer, "resid_post"] = output if isinstance(output, torch.Tensor) else output[0]

    for block in blocks:
        block.register_forward_hook(note, with_kwargs=True)
    for length in sorted({len(text) for text in texts}):
        ids = torch.tensor([text for text in texts if len(text) == length])
        seen = {}
        with torch.no_grad():
            output = model(ids)
            ended = output if model.base_model is model else model.base_model(ids)
        seen = {key: value for key, value in seen.items() if key[0] in range(3)}
        seen[None, "ln_final"] = ended.last_hidden_state
        if "logits" in output:
            seen[None, "logits"] = output.logits
        for key, value in seen.items():
            found.setdefault(key, []).append(value.flatten(0, 1).numpy())
    return {key: np.concatenate(values) for key, values in found.items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_array_equal(found[key], values, err_msg=str(key))
