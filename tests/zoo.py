"""A tiny model with random weights of every causal LM and encoder that transformers has.

Configs are made generically: what recurs is set where a config has it, and few families want more.
A type that a later transformers adds is in the zoo without an entry here.
"""

from functools import cache
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from microtome.models.fetch import fetch
from microtome.models.sources import Folder

#: What is set where a config has it. Heads of 8 are together wider than the hidden state of 24,
#: there are fewer of keys than of queries, and no width is a multiple of another by the usual
#: factors: what is cut or read at a wrong place has not the right shape by chance.
COMMON = {
    "vocab_size": 101,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    **dict.fromkeys(
        (
            "intermediate_size",
            "ffn_dim",
            "decoder_ffn_dim",
            "ffn_hidden_size",
            "dff",
            "dim_ff",
            "hidden_dim",
            "n_inner",
            "d_inner",
            "feed_forward_size",
        ),
        44,
    ),
    "embedding_size": 16,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sliding_window": 3,
    # Mixtures of experts
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 20,
    "expert_ffn_hidden_size": 20,
    **dict.fromkeys(
        (
            "shared_intermediate_size",
            "shared_expert_intermediate_size",
            "shared_experts_intermediate_size",
            "moe_shared_expert_intermediate_size",
        ),
        28,
    ),
    "first_k_dense_replace": 1,
    # Latent attention, and attention to the few keys that an indexer chooses
    "kv_lora_rank": 12,
    "q_lora_rank": 14,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "o_lora_rank": 10,
    "o_groups": 2,
    "index_head_dim": 8,
    "index_n_heads": 2,
    "index_topk": 3,
    # State spaces and linear attention
    "mamba_d_state": 4,
    "mamba_n_heads": 6,
    "mamba_d_head": 8,
    "mamba_num_heads": 6,
    "mamba_head_dim": 8,
    "mamba_chunk_size": 4,
    "state_size": 4,
    "ssm_state_size": 4,
    "n_groups": 1,
    "use_mamba_kernels": False,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 10,
    "linear_num_heads": 4,
    "linear_head_dim": 6,
    # Attention in windows may have heads of its own.
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 8,
    "num_nextn_predict_layers": 0,
    # Factors that are 1 by default
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.3,
    "residual_multiplier": 0.5,
    "logits_scaling": 2.0,
    "hidden_size_per_layer_input": 6,
    "vocab_size_per_layer_input": 101,
}

_MIXED = ["linear_attention", "full_attention"]
_SLIDING = ["sliding_attention", "full_attention"]
#: What a family wants beside that; None takes away what it refuses.
OWN = {
    "bamba": {"attn_layer_indices": [1]},
    "codegen": {"hidden_size": 32, "num_attention_heads": 8, "rotary_dim": 4},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
    },
    "cpmant": {"dim_head": 8, "prompt_types": 5, "segment_types": 4, "prompt_length": 3},
    "dbrx": {
        "d_model": 24,
        "n_heads": 4,
        "n_layers": 2,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 44, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "dots1": {"n_shared_experts": 1},
    "dots3_note_text": {
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_kv_lora_rank": 12,
        "swa_q_lora_rank": 14,
        "swa_qk_nope_head_dim": 8,
        "swa_qk_rope_head_dim": 4,
        "swa_v_head_dim": 6,
        "swa_head_dim": 12,
        "head_dim": 12,
    },
    "esmc": {"hidden_size": 32, "num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 48},
    "funnel": {
        "num_hidden_layers": None,
        "block_sizes": [2, 2],
        "n_head": 4,
        "d_head": 8,
        "d_model": 24,
    },
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "layer_types": _SLIDING * 2,
        "num_kv_shared_layers": 2,
        "laurel_rank": 5,
        "intermediate_size": 44,
        "activation_sparsity_pattern": [0.5, 0.0] * 2,
    },
    "gemma4_text": {"global_head_dim": 12, "layer_types": _SLIDING},
    "gemma4_unified_text": {"global_head_dim": 12, "layer_types": _SLIDING},
    "gpt_bigcode": {"num_key_value_heads": None, "n_head": 4},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {"layer_types": _MIXED},
    "helium": {"head_dim": 6},
    "hrm_text": {"num_layers_per_stack": 2, "num_hidden_layers": 4},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "laguna": {"num_attention_heads_per_layer": [4, 4]},
    "lfm2": {"block_auto_adjust_ff_dim": False},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "longcat_flash": {"head_dim": 4, "num_hidden_layers": 4, "zero_expert_num": 2},
    "luke": {"entity_vocab_size": 11, "entity_emb_size": 12},
    "mamba2": {"num_heads": 6},
    "mobilebert": {"hidden_size": 32, "intra_bottleneck_size": 24},
    "neomme": {"head_dim": 16},
    "opt": {"word_embed_proj_dim": 24},
    "persimmon": {"hidden_size": 32},
    "phi": {"hidden_size": 32},
    "qwen4_exp_text": {
        "hc_lowrank": 8,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 4,
        "indexer_compress_ratio": 2,
    },
    "recurrent_gemma": {"block_types": ("recurrent", "attention")},
    "reformer": {
        "attn_layers": ("local", "local"),
        "attention_head_size": 8,
        "axial_pos_shape": (8, 8),
        "axial_pos_embds_dim": (8, 16),
        "local_attn_chunk_length": 8,
    },
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 20},
    "roc_bert": {
        "pronunciation_vocab_size": 101,
        "pronunciation_embed_dim": 12,
        "shape_vocab_size": 101,
        "shape_embed_dim": 12,
    },
    "stablelm": {"hidden_size": 32},
    "squeezebert": {"embedding_size": 24},
    "xlnet": {"d_head": 6, "max_position_embeddings": None},
    "xlstm": {"num_heads": 4, "ffn_round_up_to_multiple_of": 4},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 6,
        "num_key_value_heads": 4,
        "layers_block_type": [*_MIXED[:1] * 2, "hybrid", *_MIXED[:1], "hybrid", *_MIXED[:1]],
    },
    "zamba2": {"adapter_rank": 5},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 20},
}
#: Models of text that have no head of their own.
PLAIN = (
    *("clip_text_model", "granite_docling_text", "markuplm", "mistral4", "mistral_large4_text"),
    *("molmo2_text", "muse_glimmer_text", "muse_spark_text", "openai_privacy_filter"),
    *("qwen3_vl_moe_text", "qwen3_vl_text", "splinter", "tipsv2_text_model", "visual_bert"),
)
#: Structures that a family's flags make, by name: the family and its flags.
VARIANTS = {
    "bert as a decoder": ("bert", {"is_decoder": True}),
    "bloom with post-norms": ("bloom", {"apply_residual_connection_post_layernorm": True}),
    "falcon new": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon alibi": ("falcon", {"multi_query": False, "parallel_attn": False, "alibi": True}),
    "gpt_bigcode heads": ("gpt_bigcode", {"multi_query": False}),
    "gpt_neox sequential": ("gpt_neox", {"use_parallel_residual": False}),
    "opt post-norm": ("opt", {"do_layer_norm_before": False}),
    "stablelm parallel": ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True}),
}
#: What the zoo leaves out, and why.
LEFT_OUT = {
    "blt": "a second model cuts its bytes into patches",
    "gemma4_assistant": "reads the states of the model that it drafts for",
    "gemma4_unified_assistant": "reads the states of the model that it drafts for",
    "git": "its text follows an image",
    "moshi": "speech",
    "perceiver": "its blocks hold no token's state",
    "phi4_multimodal": "its text follows images and speech",
}

#: What cannot be swept, and what Microtome answers.
REFUSED = {
    "cpmant": r"its blocks are handed \(2, 10, 24\), not one hidden state per token",
    "deepseek_v4": r"its blocks are handed \(2, 7, 4, 24\), not one hidden state per token",
    "flaubert": r"4 lists of 2 blocks, expected one",
    "funnel": r"2 lists of 4 blocks, expected one",
    "glm_moe_dsa": r"its blocks are given or return more than a hidden state",
    "hrm_text": r"lists of 4 blocks, expected one",
    "hy_v4": r"its blocks are given or return more than a hidden state",
    "longformer": r"its blocks are handed \(2, 512, 24\), not one hidden state per token",
    "mistral_large4_text": r"its blocks are given or return more than a hidden state",
    "qwen4_exp_text": r"its blocks are handed \(2, 7, 96\), not one hidden state per token",
    "reformer": r"its blocks are given or return more than a hidden state",
    "squeezebert": r"its blocks are given or return more than a hidden state",
    "xlm": r"4 lists of 2 blocks, expected one",
    "xlnet": r"its blocks are handed \(7, 2, 24\), not one hidden state per token",
    "xlstm": r"its blocks are given or return more than a hidden state",
    "zaya": r"its blocks are given or return more than a hidden state",
}


def left_out() -> dict[str, str]:
    """Types of transformers' two lists that have no model here, and why."""
    found = dict(LEFT_OUT)
    for model_type in {**MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, **MODEL_FOR_MASKED_LM_MAPPING_NAMES}:
        if model_type not in found:
            config = AutoConfig.for_model(model_type)
            if config.is_encoder_decoder:
                found[model_type] = "an encoder and a decoder"
            elif config.get_text_config() is not config:
                found[model_type] = f"its text part is {config.get_text_config().model_type}"
    return found


@cache
def names() -> tuple[str, ...]:
    """The names of all models here: types of transformers, and variants of some."""
    types = [*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_MASKED_LM_MAPPING_NAMES]
    out = left_out()
    return tuple(name for name in dict.fromkeys([*types, *PLAIN, *VARIANTS]) if name not in out)


def tiny_config(name: str, **changes: object) -> PretrainedConfig:
    """The config of a model of the zoo, with some values changed."""
    model_type, flags = VARIANTS.get(name, (name, {}))
    default = AutoConfig.for_model(model_type)
    own = OWN.get(model_type, {}) | changes
    # Of blocks that differ, one of each kind; numbers given for each block are those of the first.
    lists = {
        key: list(dict.fromkeys(value)) if isinstance(value[0], str) else value
        for key, value in vars(default).items()
        if isinstance(value, list) and len(value) == getattr(default, "num_hidden_layers", None)
    }
    kinds = [len(value) for value in lists.values() if isinstance(value[0], str)]
    n = own.get("num_hidden_layers") or max([2, *kinds])
    sizes = COMMON | {"num_hidden_layers": n}
    if _has(default, "kv_lora_rank"):  # latent attention has one key for each query
        del sizes["head_dim"]
        sizes["num_key_value_heads"] = 4
    common = {key: value for key, value in sizes.items() if _has(default, key)}
    common |= {key: (value * n)[:n] for key, value in lists.items()}
    given = common | own | flags
    return AutoConfig.for_model(
        model_type, **{key: value for key, value in given.items() if value is not None}
    )


def _has(config: PretrainedConfig, name: str) -> bool:
    """Whether a config takes a value of that name."""
    computed = getattr(type(config), name, None)
    if isinstance(computed, property) and computed.fset is None:
        return False
    try:
        return hasattr(config, name)
    except Exception:  # what a config says that has one for each block
        return True


def build(name: str, **changes: object) -> PreTrainedModel:
    """A model of the zoo with random weights of unit-like scale, so that no site is near zero."""
    config = tiny_config(name, **changes)
    torch.manual_seed(0)
    model = _class(config).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # others are tables of sines
                parameter.add_(0.1 * torch.randn_like(parameter))
        for module in model.modules():
            # Some families set it to zero whenever they load a model.
            if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0
    return model


def _class(config: PretrainedConfig) -> type[AutoModel | AutoModelForCausalLM]:
    """What a config is made a model of: a masked LM, unless there is none or it is a decoder."""
    if config.model_type in PLAIN:
        return AutoModel
    masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    decodes = getattr(config, "is_decoder", False)
    return AutoModelForMaskedLM if masked and not decodes else AutoModelForCausalLM


def fetched(name: str, folder: Path, **changes: object) -> Path:
    """A checkpoint folder of a model of the zoo, as `fetch` makes it."""
    build(name, **changes).save_pretrained(folder / "origin")
    fetch(Folder(folder / "origin"), folder / "checkpoint")
    return folder / "checkpoint"


def load(name: str, checkpoint: Path, **options: str) -> PreTrainedModel:
    """The model of a checkpoint folder as transformers loads it."""
    return _class(tiny_config(name)).from_pretrained(checkpoint, **options).eval()


def encoded(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """What the head reads, (batch, position, d_model)."""
    base = model.base_model
    if base is model and model.config.model_type not in PLAIN:
        base = model.model  # a head that does not say which its base model is
    return base(ids, use_cache=False).last_hidden_state
