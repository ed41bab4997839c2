"""Where the sites of many families lie, read off transformers' source by hand.

What Microtome finds by itself is held beside this. An entry is the path of a module from its block,
or the paths of those that blocks of several kinds have: its output, or with "<" its first argument;
with a function, what is made of that.
"""

from math import sqrt

import torch
from torch import Tensor


def _of(*sizes, unit=1):
    """Functions that cut the last axis into parts of some widths, one after another."""
    starts = [sum(sizes[:i]) * unit for i in range(len(sizes))]
    return [
        lambda x, start=start, size=size: x[..., start : start + size * unit]
        for start, size in zip(starts, sizes, strict=True)
    ]


def _within(groups, *sizes, unit):
    """Functions that cut each of some groups of the last axis, and put the parts together."""
    return [
        lambda x, part=part: part(x.unflatten(-1, (groups, -1))).flatten(-2)
        for part in _of(*sizes, unit=unit)
    ]


def _qkv(path, parts):
    return {site: (path, part) for site, part in zip("qkv", parts, strict=True)}


def _scaled(places, factor):
    return {site: (places[site], lambda x: factor * x) for site in ("attn_out", "mlp_out")}


_LLAMA = {
    "ln1_out": "<self_attn",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "z": "<self_attn.o_proj",
    "attn_out": "self_attn",
    "resid_mid": "<post_attention_layernorm",
    "ln2_out": "<mlp",
    "pre": "mlp.gate_proj",
    "pre_linear": "mlp.up_proj",
    "post": "<mlp.down_proj",
    "mlp_out": "mlp",
}


def _without(places, *sites):
    return {site: place for site, place in places.items() if site not in sites}


_UNGATED = _without(_LLAMA, "pre_linear") | {"pre": "mlp.up_proj"}
_PARALLEL = _without(_LLAMA, "resid_mid")
# What an expert computes is no site: each reads some tokens only.
_EXPERTS = _without(_LLAMA, "pre", "pre_linear", "post")
_SANDWICH = {
    "attn_out": "post_attention_layernorm",
    "resid_mid": "<pre_feedforward_layernorm",
    "mlp_out": "post_feedforward_layernorm",
}
_GATE_UP = {
    site: ("mlp.gate_up_proj", part)
    for site, part in zip(("pre", "pre_linear"), _of(44, 44), strict=True)
}
# Norms of what attention and MLP return, and none before them.
_OLMO2 = {
    "ln1_out": "<self_attn",
    "attn_out": "post_attention_layernorm",
    "resid_mid": "<mlp",
    "mlp_out": "post_feedforward_layernorm",
}
_LATENT = _without(_LLAMA, "k") | {
    "q": "self_attn.q_b_proj",
    "v": ("self_attn.kv_b_proj", _within(4, 8, 6, unit=1)[1]),
}
_GPT2 = {
    "ln1_out": "<attn",
    **_qkv("attn.c_attn", _of(24, 24, 24)),
    "z": "<attn.c_proj",
    "attn_out": "attn",
    "resid_mid": "<ln_2",
    "ln2_out": "<mlp",
    "pre": "mlp.c_fc",
    "post": "<mlp.c_proj",
    "mlp_out": "mlp",
}
_GPTJ = {
    "ln1_out": "<attn",
    "q": "attn.q_proj",
    "k": "attn.k_proj",
    "v": "attn.v_proj",
    "z": "<attn.out_proj",
    "attn_out": "attn",
    "ln2_out": "<mlp",
    "pre": "mlp.fc_in",
    "post": "<mlp.fc_out",
    "mlp_out": "mlp",
}
_NEOX = {
    "ln1_out": "<attention",
    **_qkv("attention.query_key_value", _within(4, 1, 1, 1, unit=6)),
    "z": "<attention.dense",
    "attn_out": "attention",
    "resid_mid": "<post_attention_layernorm",
    "ln2_out": "<mlp",
    "pre": "mlp.dense_h_to_4h",
    "post": "<mlp.dense_4h_to_h",
    "mlp_out": "mlp",
}
_FALCON = {
    "ln1_out": "<self_attention",
    "z": "<self_attention.dense",
    "attn_out": "self_attention",
    "ln2_out": "<mlp",
    "pre": "mlp.dense_h_to_4h",
    "post": "<mlp.dense_4h_to_h",
    "mlp_out": "mlp",
}
_OPT = {
    "ln1_out": "<self_attn",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "z": "<self_attn.out_proj",
    "attn_out": "self_attn",
    "resid_mid": "<final_layer_norm",
    "ln2_out": "<fc1",
    "pre": "fc1",
    "post": "<fc2",
    "mlp_out": "fc2",
}
_BERT = {
    "ln1_out": "<attention",
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "z": "<attention.output.dense",
    "attn_out": "attention.output.dense",
    "resid_mid": "<attention.output.LayerNorm",
    "ln2_out": "<intermediate",
    "pre": "intermediate.dense",
    "post": "<output.dense",
    "mlp_out": "output.dense",
}

#: The places of each family's sites; those of a block are its input and its output.
PLACES = {
    "llama": _LLAMA,
    **dict.fromkeys(("mistral", "qwen2", "qwen3", "smollm3", "olmo", "helium", "gemma"), _LLAMA),
    **dict.fromkeys(("seed_oss", "ernie4_5", "hunyuan_v1_dense", "cwm", "ministral"), _LLAMA),
    **dict.fromkeys(("gemma2", "gemma3_text"), _LLAMA | _SANDWICH),
    "vaultgemma": _LLAMA | {"resid_mid": "<pre_feedforward_layernorm"},
    **dict.fromkeys(("olmo2", "olmo3", "exaone4"), _LLAMA | _OLMO2),
    **dict.fromkeys(("cohere", "cohere2"), _PARALLEL),
    "stablelm": _LLAMA,
    "stablelm parallel": _PARALLEL,
    "starcoder2": _UNGATED | {"pre": "mlp.c_fc", "post": "<mlp.c_proj"},
    **dict.fromkeys(("arcee", "nemotron", "jais2"), _UNGATED),
    "apertus": _UNGATED | {"resid_mid": "<feedforward_layernorm"},
    "nanochat": _UNGATED | {"pre": "mlp.fc1", "post": "<mlp.fc2"},
    "phi": _without(_UNGATED, "resid_mid")
    | {"z": "<self_attn.dense", "pre": "mlp.fc1", "post": "<mlp.fc2"},
    "phi3": _LLAMA | _GATE_UP | _qkv("self_attn.qkv_proj", _of(24, 12, 12)),
    "glm": _LLAMA | _GATE_UP,
    "glm4": _LLAMA
    | _GATE_UP
    | {"attn_out": "post_self_attn_layernorm", "mlp_out": "post_mlp_layernorm"},
    # What attention and MLP return is scaled before it joins the residual stream.
    "granite": _LLAMA | _scaled(_LLAMA, 0.5),
    "minicpm3": _LATENT | _scaled(_LATENT, 1.4 / sqrt(2)),
    "persimmon": _without(_UNGATED, "q", "k", "v")
    | _qkv("self_attn.query_key_value", _within(4, 1, 1, 1, unit=8))
    | {"z": "<self_attn.dense", "pre": "mlp.dense_h_to_4h", "post": "<mlp.dense_4h_to_h"},
    **dict.fromkeys(("mixtral", "qwen3_moe", "olmoe", "mellum"), _EXPERTS | {"router": "mlp.gate"}),
    **dict.fromkeys(("gpt_oss", "phimoe"), _EXPERTS | {"router": "mlp.router"}),
    "granitemoe": _EXPERTS
    | {"ln2_out": "<block_sparse_moe", "router": "block_sparse_moe.router"}
    | _scaled(_EXPERTS | {"mlp_out": "block_sparse_moe"}, 0.5),
    "qwen2_moe": _EXPERTS | {"router": "mlp.gate"},
    "llama4_text": _EXPERTS | {"ln2_out": "<feed_forward", "mlp_out": "feed_forward"},
    # Two blocks: linear attention, and attention whose heads are [query, gate].
    "qwen3_next": _EXPERTS
    | {"q": ("self_attn.q_proj", _within(4, 1, 1, unit=8)[0])}
    | {"attn_out": "self_attn|linear_attn", "router": "mlp.gate"},
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), _LATENT | {"router": "mlp.gate"}),
    "jamba": _LLAMA
    | {"attn_out": "self_attn|mamba", "resid_mid": "<pre_ff_layernorm", "ln2_out": "<feed_forward"}
    | {"pre": "feed_forward.gate_proj", "pre_linear": "feed_forward.up_proj"}
    | {"post": "<feed_forward.down_proj", "mlp_out": "feed_forward"}
    | {"router": "feed_forward.router"},
    "gpt2": _GPT2,
    "openai-gpt": _GPT2 | {"resid_mid": "<ln_1"},
    "gpt_bigcode": _GPT2 | _qkv("attn.c_attn", _of(24, 6, 6)),
    "gpt_bigcode heads": _GPT2 | _qkv("attn.c_attn", _within(4, 1, 1, 1, unit=6)),
    "gpt_neo": _GPT2
    | {site: f"attn.attention.{site}_proj" for site in "qkv"}
    | {"z": "<attn.attention.out_proj"},
    "gptj": _GPTJ,
    # Eight heads in four parts; within each q, v, k of two heads.
    "codegen": _GPTJ
    | dict(
        zip("qvk", [("attn.qkv_proj", part) for part in _within(4, 1, 1, 1, unit=8)], strict=True)
    ),
    "gpt_neox": _without(_NEOX, "resid_mid"),
    "gpt_neox sequential": _NEOX,
    # Its modules return what they were given as well: attention and MLP add to the residual stream.
    "bloom": _NEOX
    | {
        "ln1_out": "<self_attention",
        **_qkv("self_attention.query_key_value", _within(4, 1, 1, 1, unit=6)),
        "z": "<self_attention.dense",
        "attn_out": "self_attention.dense",
        "mlp_out": "mlp.dense_4h_to_h",
    },
    "falcon": _FALCON | _qkv("self_attention.query_key_value", _of(4, 1, 1, unit=6)),
    # Two groups: in each two queries, a key and a value.
    "falcon new": _FALCON | _qkv("self_attention.query_key_value", _within(2, 2, 1, 1, unit=6)),
    "falcon alibi": _FALCON
    | _qkv("self_attention.query_key_value", _within(4, 1, 1, 1, unit=6))
    | {"resid_mid": "<post_attention_layernorm"},
    "mpt": {
        "ln1_out": "<attn",
        **_qkv("attn.Wqkv", _of(24, 24, 24)),
        "z": "<attn.out_proj",
        "attn_out": "attn",
        "resid_mid": "<norm_2",
        "ln2_out": "<ffn",
        "pre": "ffn.up_proj",
        "post": "<ffn.down_proj",
        "mlp_out": "ffn.down_proj",
    },
    "dbrx": {
        "ln1_out": "<norm_attn_norm.attn",
        **_qkv("norm_attn_norm.attn.Wqkv", _of(24, 12, 12)),
        "z": "<norm_attn_norm.attn.out_proj",
        "attn_out": "norm_attn_norm.attn",
        "resid_mid": "<norm_attn_norm.norm_2",
        "ln2_out": "<ffn",
        "mlp_out": "ffn",
        "router": "ffn.router.layer",
    },
    **dict.fromkeys(("opt", "biogpt", "xglm"), _OPT),
    "ctrl": {
        "ln1_out": "<multi_head_attention",
        "q": "multi_head_attention.Wq",
        "k": "multi_head_attention.Wk",
        "v": "multi_head_attention.Wv",
        "z": "<multi_head_attention.dense",
        "attn_out": "multi_head_attention",
        "resid_mid": "<layernorm2",
        "ln2_out": "<ffn",
        "pre": "ffn.0",
        "post": "<ffn.2",
        "mlp_out": "ffn",
    },
    **dict.fromkeys(("bert", "roberta", "electra", "camembert", "xlm-roberta", "rembert"), _BERT),
    "bert as a decoder": _BERT,
    "roberta-prelayernorm": _BERT
    | {"ln1_out": "<attention.self", "resid_mid": "attention", "ln2_out": "<intermediate.dense"},
    "distilbert": {
        "ln1_out": "<attention",
        "q": "attention.q_lin",
        "k": "attention.k_lin",
        "v": "attention.v_lin",
        "z": "<attention.out_lin",
        "attn_out": "attention",
        "resid_mid": "<sa_layer_norm",
        "ln2_out": "<ffn",
        "pre": "ffn.lin1",
        "post": "<ffn.lin2",
        "mlp_out": "ffn",
    },
    "mpnet": _BERT
    | {
        "z": "<attention.attn.o",
        "attn_out": "attention.attn.o",
        "resid_mid": "<attention.LayerNorm",
    }
    | {site: f"attention.attn.{site}" for site in "qkv"},
    "deberta": _BERT | _qkv("attention.self.in_proj", _within(4, 1, 1, 1, unit=6)),
    "modernbert": {
        "ln1_out": "<attn",
        **_qkv("attn.Wqkv", _of(24, 24, 24)),
        "z": "<attn.Wo",
        "attn_out": "attn",
        "resid_mid": "<mlp_norm",
        "ln2_out": "<mlp",
        "pre": ("mlp.Wi", _of(44, 44)[0]),
        "pre_linear": ("mlp.Wi", _of(44, 44)[1]),
        "post": "<mlp.Wo",
        "mlp_out": "mlp",
    },
    "nomic_bert": _LLAMA,
    "eurobert": _LLAMA,
}


def blocks(model: torch.nn.Module) -> torch.nn.ModuleList:
    """The list of a model's blocks."""
    for path in (
        *("layers", "h", "blocks", "layer", "model.layers"),
        *("decoder.layers", "encoder.layer", "encoder.layers", "transformer.layer"),
        *("encoder.blocks", "encoder.albert_layer_groups"),
    ):
        try:
            return model.base_model.get_submodule(path)
        except AttributeError:
            continue
    raise LookupError(type(model).__name__)


def watch(name: str, model: torch.nn.Module, keep) -> None:
    """Hand `keep` a layer, a site and its values, (token, width), whenever the model runs."""
    tokens = 0

    def count(module, args, kwargs) -> None:
        nonlocal tokens
        tokens = (args[0] if args else kwargs["hidden_states"]).shape[:2].numel()

    for layer, block in enumerate(blocks(model)):
        block.register_forward_pre_hook(count, with_kwargs=True)
        for site, entry in PLACES[name].items():
            place, part = entry if isinstance(entry, tuple) else (entry, None)
            modules = dict(block.named_modules())
            paths = place.removeprefix("<").split("|")
            module = next((modules[path] for path in paths if path in modules), None)
            if module is None:  # of blocks of several kinds, those of another
                continue

            def note(tensor: Tensor, layer=layer, site=site, part=part) -> None:
                rows = tensor.reshape(tokens, -1)
                keep(layer, site, (part(rows) if part else rows).clone())

            if place.startswith("<"):
                module.register_forward_pre_hook(
                    lambda module, args, kwargs, note=note: note(
                        args[0] if args else kwargs["hidden_states"]
                    ),
                    with_kwargs=True,
                )
            else:
                module.register_forward_hook(
                    lambda module, args, output, note=note: note(
                        output if isinstance(output, Tensor) else output[0]
                    )
                )
