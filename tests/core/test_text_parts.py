"""The text part of models that also see or hear, against the whole model on text alone."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import describe
from hooked import assert_swept_as_loaded, columns, taps_at
from origins import refused
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM

import microtome.models.sources as sources
from microtome.models.fetch import described, fetch
from microtome.models.stored import StoredMLP
from microtome.sweeps import cost
from microtome.sweeps.batches import batched
from microtome.sweeps.sweep import sweep

PLAN = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "plan.py"))
TEXT = {
    "vocab_size": 101,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
#: As many layers as the text part has, so that they could be taken for its blocks.
IMAGES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 28,
    "patch_size": 14,
}
PATCHES = {"depth": 3, "num_heads": 2, "patch_size": 14}
#: Sections of rotary positions for time, height and width.
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "intermediate_size_mlp": 40,
}
TOKENS = {"image_token_id": 99, "video_token_id": 98}

#: A tiny configuration of each, by the model type of the whole.
MODELS = {
    "gemma3": {
        "text_config": TEXT | {"sliding_window": 3},
        "vision_config": IMAGES,
        "mm_tokens_per_image": 4,
    },
    "idefics3": {
        "text_config": TEXT | {"model_type": "llama"},
        "vision_config": IMAGES,
        "scale_factor": 2,
        "image_token_id": 99,
    },
    "internvl": {
        "text_config": TEXT | {"model_type": "qwen2"},
        "vision_config": IMAGES | {"image_size": [28, 28], "patch_size": [14, 14]},
        "image_token_id": 99,
    },
    "llama4": {
        "text_config": TEXT | EXPERTS,
        "vision_config": IMAGES
        | {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32},
    },
    "llava": {
        "text_config": TEXT | {"model_type": "llama"},
        "vision_config": IMAGES | {"model_type": "clip_vision_model"},
        "image_token_index": 99,
    },
    "mistral3": {
        "text_config": TEXT | {"model_type": "mistral", "sliding_window": 3},
        "vision_config": IMAGES | {"model_type": "pixtral"},
        "image_token_index": 99,
    },
    "qwen2_vl": {
        "text_config": TEXT | ROPE,
        "vision_config": PATCHES | {"embed_dim": 16, "hidden_size": 32},
        **TOKENS,
    },
    "qwen2_5_vl": {
        "text_config": TEXT | ROPE,
        "vision_config": PATCHES
        | {"hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 32},
        **TOKENS,
    },
    "qwen3_vl_moe": {
        "text_config": TEXT | ROPE | EXPERTS,
        "vision_config": PATCHES
        | {"hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 32}
        | {"deepstack_visual_indexes": [0]},
        **TOKENS,
    },
    "voxtral": {  # which hears
        "text_config": TEXT | {"model_type": "llama"},
        "audio_config": {
            **{"hidden_size": 16, "intermediate_size": 64, "num_attention_heads": 2},
            **{"num_hidden_layers": 3, "num_mel_bins": 8, "max_source_positions": 30},
        },
        "audio_token_id": 99,
    },
}


def save(folder: Path, model_type: str, dtype: torch.dtype = torch.float32, **config) -> None:
    """Save a random model as save_pretrained does, which is as the hub has it."""
    torch.manual_seed(0)
    whole = AutoConfig.for_model(model_type, **(config or MODELS[model_type]))
    model = AutoModelForMultimodalLM.from_config(whole)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    (model if dtype == torch.float32 else model.to(dtype)).save_pretrained(folder)


@pytest.mark.parametrize("model_type", MODELS)
def test_is_swept_as_the_whole_model_on_text_alone(model_type, tmp_path, out):
    origin = tmp_path / "mine"
    save(origin, model_type)
    fetch(sources.Folder(origin), out)
    assert all(file.resolve().parent == origin for file in out.iterdir())
    whole = AutoModelForMultimodalLM.from_pretrained(origin, dtype=torch.float32)
    assert_swept_as_loaded(out, whole)

    found = json.loads(describe(out).read_text())
    assert (found["architecture"], found["part"], found["head"]) == (model_type, "text", "causal")
    assert (found["n_layers"], found["d_model"], found["d_vocab"]) == (3, 32, 101)
    others = ("vision", "visual", "audio", "projector", "connector")
    assert any(
        other in name for name in load_file(origin / "model.safetensors") for other in others
    )
    assert not any(other in name for name in found["tensors"] for other in others)
    planned = PLAN["of_config"](sources.Folder(origin))
    assert planned.block == cost.model(found).block
    text = {name: t for name, t in whole.get_decoder().named_parameters() if "layers.0." in name}
    assert cost.model(found).block == sum(parameter.numel() for parameter in text.values())


def test_bfloat16_and_an_untrained_twin(tmp_path, out):
    save(tmp_path / "mine", "llava", torch.bfloat16)
    fetch(sources.Folder(tmp_path / "mine"), out)
    whole = AutoModelForMultimodalLM.from_pretrained(tmp_path / "mine", dtype=torch.float32)
    assert_swept_as_loaded(out, whole)
    twin = out.with_name("untrained")
    fetch(sources.Untrained("mine", 7), twin, reference=out)
    fresh = AutoModelForMultimodalLM.from_pretrained(twin, dtype=torch.float32)
    assert_swept_as_loaded(twin, fresh)
    assert not torch.equal(fresh.lm_head.weight, whole.lm_head.weight)


@pytest.mark.parametrize("model_type", ["gemma3", "qwen2_vl"])
def test_without_head(model_type, tmp_path, out):
    save(tmp_path / "whole", model_type)
    whole = AutoModelForMultimodalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32)
    whole.model.save_pretrained(tmp_path / "mine")
    fetch(sources.Folder(tmp_path / "mine"), out)
    texts = batched(columns([np.arange(3, 9)]), 1024)
    *_, last = sweep(out, texts, [], [], ["ln_final"], taps={})
    base = AutoModel.from_pretrained(tmp_path / "mine", dtype=torch.float32).eval()
    with torch.no_grad():
        expected = base(input_ids=torch.arange(3, 9)[None], use_cache=False).last_hidden_state
    np.testing.assert_array_equal(last.values["ln_final"], expected[0])


def test_its_mlps_are_not_those_that_see(tmp_path, out):
    """Qwen 2.5-VL calls the weights of both the same."""
    save(tmp_path / "mine", "qwen2_5_vl")
    fetch(sources.Folder(tmp_path / "mine"), out)
    stored = load_file(tmp_path / "mine" / "model.safetensors")
    assert {"visual.blocks.1.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"} <= set(
        stored
    )
    mlp = StoredMLP(out, described(out), taps_at(out))
    expected = stored["model.layers.1.mlp.up_proj.weight"].T
    np.testing.assert_array_equal(mlp.weight("W1 (up)", 1), expected)


REFUSED = {
    "blip-2": (
        {
            "text_config": {
                **{"vocab_size": 101, "hidden_size": 32, "num_hidden_layers": 3},
                **{"num_attention_heads": 4, "ffn_dim": 40, "word_embed_proj_dim": 32},
            },
            "vision_config": IMAGES,
            "qformer_config": {
                **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
                **{"intermediate_size": 24, "encoder_hidden_size": 16},
            },
        },
        "blip-2: the model does not run on text alone",
    ),
    "mllama": (
        {
            "text_config": TEXT | {"cross_attention_layers": [1]},
            "vision_config": IMAGES
            | {"attention_heads": 2, "vision_output_dim": 32, "num_global_layers": 1}
            | {"intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1]]},
        },
        "mllama: the model does not run its blocks one after another",
    ),
}


@pytest.mark.parametrize("model_type", REFUSED)
def test_what_does_not_run_on_text_alone_is_refused(model_type, tmp_path, out):
    config, said = REFUSED[model_type]
    save(tmp_path / "mine", model_type, **config)
    fetch(sources.Folder(tmp_path / "mine"), out)
    texts = batched(columns([np.arange(5)]), 1024)
    refused(lambda: list(sweep(out, texts, ["resid_post"], range(3), taps={})), said)


def test_an_encoder_and_a_decoder_are_refused(tmp_path, out):
    config = AutoConfig.for_model("pix2struct")
    config.save_pretrained(tmp_path / "mine")
    refused(
        lambda: fetch(sources.Folder(tmp_path / "mine"), out),
        "config.json: the text part of a 'pix2struct' is an encoder and a decoder",
    )
