"""Many families of transformers, each block and what follows, against their plain forward.

Their heads call their base models in many ways, and their blocks return tensors, tuples or lists.
"""

import numpy as np
import pytest
import torch
from conftest import CONFIGS, GROUPED, SIZES
from hooked import columns, load
from transformers import AutoConfig, AutoModelForCausalLM

from microtome.errors import MicrotomeError
from microtome.models.fetch import fetch
from microtome.models.sources import Folder
from microtome.sweeps.batches import batched
from microtome.sweeps.lens import Lens
from microtome.sweeps.sweep import sweep

#: Two texts of seven tokens and one of four.
SEQUENCES = [
    np.random.default_rng(i).integers(3, 101, length) for i, length in enumerate([7, 7, 4])
]
PADDED = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
OLD = {"vocab_size": 101, "n_embd": 24, "n_layer": 4, "n_head": 4, "n_positions": 64}
GROUPS = GROUPED | PADDED | {"head_dim": 8}
EXPERTS = GROUPS | {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"] * 2}
FAMILIES = CONFIGS | {
    "opt": ("opt", SIZES | {"word_embed_proj_dim": 24, "ffn_dim": 40}),
    "openai-gpt": ("openai-gpt", OLD),
    "llama4_text": ("llama4_text", EXPERTS | {"intermediate_size_mlp": 40}),
    "bloom": (
        "bloom",
        {"vocab_size": 101, "hidden_size": 24, "n_layer": 4, "n_head": 4, "seq_length": 64},
    ),
    "mpt": ("mpt", {"vocab_size": 101, "d_model": 24, "n_layers": 4, "n_heads": 4}),
    "gptj": ("gptj", OLD | {"rotary_dim": 4}),
    "codegen": ("codegen", OLD | {"rotary_dim": 4}),
    "ctrl": ("ctrl", OLD | {"dff": 40}),
    "gpt_bigcode": ("gpt_bigcode", OLD),
    "falcon": ("falcon", SIZES),
    "biogpt": ("biogpt", SIZES | {"intermediate_size": 40}),
    "xglm": (
        "xglm",
        {"vocab_size": 101, "d_model": 24, "num_layers": 4, "attention_heads": 4, "ffn_dim": 40},
    ),
    "mixtral": ("mixtral", EXPERTS),
    "qwen2_moe": ("qwen2_moe", EXPERTS),
    "qwen3_moe": ("qwen3_moe", EXPERTS),
    "gpt_oss": ("gpt_oss", EXPERTS),
    "gemma4_text": ("gemma4_text", GROUPS | SLIDING | {"global_head_dim": 8}),
    "mamba": ("mamba", SIZES | {"state_size": 4}),
    "jamba": (
        "jamba",
        EXPERTS | {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    ),
    **{
        family: (family, GROUPS)
        for family in ("phi", "phi3", "gemma", "cohere", "cohere2", "olmo", "olmo2", "granite")
    },
    "stablelm": ("stablelm", GROUPS),
    "starcoder2": ("starcoder2", GROUPS),
    "glm4": ("glm4", GROUPS),
    "bert": ("bert", SIZES | {"is_decoder": True}),
}


def tiny(folder, model_type, sizes):
    """A checkpoint folder of a model with random weights."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder / "origin")
    fetch(Folder(folder / "origin"), folder / "checkpoint")
    return folder / "checkpoint"


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_plain_forward(tmp_path, family):
    checkpoint = tiny(tmp_path, *FAMILIES[family])
    found = {}
    lens = Lens(checkpoint, columns(SEQUENCES), batch_size=8, dtype="float32", device="cpu")
    for section in sweep(
        *(checkpoint, batched(columns(SEQUENCES), 8), ["resid_post"], range(4)),
        ["ln_final", "logits"],
        taps={},
    ):
        for site, values in section.values.items():
            for row, value in zip(section.rows, values, strict=True):
                found[section.layer, site, row] = value
        if section.layer == 3:
            for row, value in lens(section, "resid_post"):
                found[None, "lens", row] = value
    model = load(checkpoint)
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 4]
    seen = []
    for block in lists[0]:
        block.register_forward_hook(
            lambda module, args, output: seen.append(
                output if isinstance(output, torch.Tensor) else output[0]
            )
        )
    for texts in (SEQUENCES[2:], SEQUENCES[:2]):
        seen.clear()
        with torch.no_grad():
            ids = torch.tensor(np.stack(texts))
            output = model(ids, output_hidden_states=True, use_cache=False)
        expected = {(layer, "resid_post"): hidden for layer, hidden in enumerate(seen)}
        expected |= {(None, "ln_final"): output.hidden_states[-1], (None, "logits"): output.logits}
        expected[None, "lens"] = output.logits.log_softmax(dim=-1)
        assert len(expected) == 7
        first = 14 if len(texts) == 1 else 0
        for (layer, site), values in expected.items():
            for row, value in enumerate(values.flatten(0, 1), start=first):
                np.testing.assert_array_equal(
                    found[layer, site, row], value, err_msg=f"{layer} {site}"
                )


@pytest.mark.parametrize(
    ("model_type", "sizes", "message"),
    [
        (
            "gemma3n_text",
            GROUPS
            | SLIDING
            | {
                "vocab_size_per_layer_input": 101,
                "hidden_size_per_layer_input": 8,
                "laurel_rank": 4,
                "num_kv_shared_layers": 0,
                "intermediate_size": [40] * 4,
                "activation_sparsity_pattern": [0.0] * 4,
            },
            r"gemma3n_text: its blocks are handed \(4, 2, 7, 24\), not one hidden state per token",
        ),
        (
            "xlnet",
            {"vocab_size": 101, "d_model": 24, "n_layer": 4, "n_head": 4, "d_inner": 40},
            r"xlnet: its blocks are handed \(7, 2, 24\), not one hidden state per token",
        ),
        # As OPT-350M: its head reads fewer numbers than a hidden state has.
        (
            "opt",
            SIZES | {"word_embed_proj_dim": 12, "do_layer_norm_before": False},
            r"site 'ln_final': shape \(14, 12\) where tokens × 24 was expected; leave this site",
        ),
    ],
)
def test_what_cannot_be_swept_is_refused_in_a_line(tmp_path, model_type, sizes, message):
    checkpoint = tiny(tmp_path, model_type, sizes)
    with pytest.raises(MicrotomeError, match=message) as caught:
        list(sweep(checkpoint, batched(columns(SEQUENCES[:2]), 8), [], [], ["ln_final"], taps={}))
    assert "\n" not in str(caught.value)
