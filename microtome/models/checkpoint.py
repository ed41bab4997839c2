"""A checkpoint folder: its config, its sizes, and where its tensors lie.

It holds config.json, the tokenizer and safetensors, under any names that transformers reads.
Nothing of it is ever executed: no pickle is opened, no remote code is run.
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from microtome.errors import MicrotomeError, in_short
from microtome.models.float8 import is_float8

if TYPE_CHECKING:
    from transformers import PretrainedConfig

#: Of each tensor of a checkpoint, by name: its file, and its `dtype` and `shape`.
TensorIndex = dict[str, tuple[Path, dict[str, Any]]]
#: The suffixes of the files that a model is made from: weights, configuration, tokenizer.
SUFFIXES = {".json", ".safetensors", ".txt", ".model", ".jinja"}
#: The index of a model's shards, under transformers' name.
INDEX = "model.safetensors.index.json"
#: What configs call the width of an MLP.
_MLP_WIDTHS = (
    "intermediate_size",
    "n_inner",
    "ffn_dim",
    "ffn_hidden_size",
    "decoder_ffn_dim",
    "hidden_dim",
    "d_inner",
    "dff",
    "dim_ff",
    "feed_forward_size",
)
#: What configs call the number of experts.
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
#: Model types whose positions begin after the number of the padding token, as RoBERTa's: of 514
#: positions, text takes 512.
POSITIONS_AFTER_PADDING = (
    *("camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "markuplm"),
    *("mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
)


def sizes(config: "PretrainedConfig") -> dict[str, int]:
    """A model's dimensions under Microtome's names, whatever its architecture calls them.

    Those of the first block, where blocks differ. Without attention there are no heads: `n_heads`,
    `n_kv_heads` and `d_head` are 0. Only some models have a largest `n_context`, `n_experts`, or a
    `d_value`, the width of a head's values where it differs from that of keys.

    Raises:
        MicrotomeError: an architecture that has no such dimension, say no hidden state.
    """
    text = config.get_text_config().per_layer_config[0]

    def find(*names: str) -> int:
        values = (getattr(text, name, None) for name in names)
        found = next((value for value in values if value), 0)
        return found[0] if isinstance(found, list) else found

    def first(name: str) -> int:
        found = find(name)
        if not found:
            raise MicrotomeError(
                f"{config.name_or_path}: the config of a {config.model_type!r} has no {name}; "
                "use a transformer"
            )
        return found

    hidden, heads = first("hidden_size"), find("num_attention_heads")
    # Falcon's new blocks have groups of queries, whatever its flag for a single one says.
    single = find("multi_query") and not find("new_decoder_architecture")
    kv_heads = 1 if single else find("num_key_value_heads", "num_kv_heads") or heads
    d_head = find("qk_head_dim", "head_dim") or hidden // (heads or hidden)
    before = (text.pad_token_id or 0) + 1 if text.model_type in POSITIONS_AFTER_PADDING else 0
    # RecurrentGemma's config counts both projections of its gated MLP.
    d_mlp = find(*_MLP_WIDTHS) // (2 if text.model_type == "recurrent_gemma" else 1)
    found = {
        # LongCat-Flash counts the two halves of each block as hidden layers.
        "n_layers": find("num_layers") or first("num_hidden_layers"),
        "d_model": hidden,
        "n_heads": heads,
        "n_kv_heads": kv_heads if heads else 0,
        "d_head": d_head if heads else 0,
        "d_mlp": d_mlp or 4 * hidden,
        "d_vocab": first("vocab_size"),
        "n_context": find("max_position_embeddings", "seq_length", "max_seq_len") - before,
        "n_experts": find(*_EXPERTS) or getattr(find("ffn_config"), "moe_num_experts", 0),
    }
    if heads and find("v_head_dim") != d_head:
        found["d_value"] = find("v_head_dim")
    optional = ("n_context", "n_experts", "d_value")
    return {key: size for key, size in found.items() if size > 0 or key not in optional}


def source_files(folder: Path) -> list[Path]:
    """The files that a model may be made from, in a folder that a user names as its source.

    Raises:
        MicrotomeError: the folder or one of them cannot be read.
    """
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    except OSError as error:
        raise MicrotomeError(f"{folder}: {error.strerror}; name a folder you can read") from None
    for file in files:
        if not os.path.isfile(file):
            fault = "a link that leads nowhere" if file.is_symlink() else "not a file"
            raise MicrotomeError(f"{file}: {fault}; put the file there, or take it away")
        if not os.access(file, os.R_OK):
            raise MicrotomeError(f"{file}: no permission to read it; allow it with chmod")
    return files


def config_json(folder: Path) -> dict[str, Any]:
    """The content of a checkpoint folder's config.json.

    Raises:
        MicrotomeError: it is missing or damaged, or says that the weights are quantised (but for
            `microtome.models.float8`) or lie under a name of their own.
    """
    file = folder / "config.json"
    if (folder / "adapter_config.json").is_file():
        raise MicrotomeError(
            f"{folder}: holds an adapter of PEFT; merge it into its model with merge_and_unload(), "
            "save that in a folder of its own with save_pretrained(), and name this"
        )
    if not file.is_file():
        raise MicrotomeError(f"{folder}: no config.json; name a folder that holds a checkpoint")
    config = read_json(file)
    method = _quantisation(config)
    if method and not is_float8(config):
        raise MicrotomeError(
            f"{file}: the weights are quantised ({method}), which Microtome cannot read; use the "
            "model's release in bfloat16, float16 or float32"
        )
    if config.get("transformers_weights"):
        raise MicrotomeError(
            f"{file}: transformers_weights is {config['transformers_weights']!r}, and Microtome "
            "reads model.safetensors only; rename the file and take out the key"
        )
    return config


def _quantisation(config: dict[str, Any]) -> str | None:
    """The method that a checkpoint's weights are quantised with, or None."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for key in ("quantization_config", "compression_config"):
            found = part.get(key)
            if isinstance(found, dict) and found:
                default = "bitsandbytes" if {"load_in_4bit", "load_in_8bit"} & set(found) else key
                return str(found.get("quant_method") or default)
            if found:
                return key
    return None


def read_config(folder: Path) -> "PretrainedConfig":
    """The transformers config of a checkpoint folder.

    Raises:
        MicrotomeError: no config.json, one that is damaged or that only remote code could
            serve, that of another kind of model, or of quantised weights.
    """
    from transformers import CONFIG_MAPPING, AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
        MODEL_MAPPING_NAMES,
    )

    file = folder / "config.json"
    model_type = config_json(folder).get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise MicrotomeError(
            f"{file}: model_type {model_type!r} is not part of transformers: it wants remote "
            "code, which Microtome never runs; use an architecture of transformers"
        )
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a config class says about its values
        raise MicrotomeError(
            f"{file}: transformers refuses it ({in_short(error)}); correct it"
        ) from error
    predicts = {
        *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        *MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        *MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    }
    encodes = (
        model_type in MODEL_MAPPING_NAMES
        and config.get_text_config() is config
        and hasattr(config, "vocab_size")
        and not getattr(config, "is_encoder_decoder", False)
    )
    if model_type not in predicts and not encodes:
        raise MicrotomeError(
            f"{file}: model_type {model_type!r} is neither a causal language model nor an encoder "
            "of text; use one that is"
        )
    sees_or_hears = model_type in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    if sees_or_hears and config.get_text_config(decoder=True).is_encoder_decoder:
        raise MicrotomeError(
            f"{file}: the text part of a {model_type!r} is an encoder and a decoder, which "
            "Microtome cannot run; use a model with a decoder alone"
        )
    return config


def tensor_index(folder: Path) -> TensorIndex:
    """Every tensor of a checkpoint folder: its file, and its `dtype` and `shape`.

    Raises:
        MicrotomeError: no safetensors, or one that is damaged or cut short.
    """
    index = {}
    for file in weight_files(folder):
        if not file.is_file():
            raise MicrotomeError(f"{file}: missing; fetch the model again")
        try:
            with safe_open(file, framework="numpy") as opened:
                slices = {name: opened.get_slice(name) for name in opened.offset_keys()}
                for name, tensor in slices.items():
                    entry = {"dtype": tensor.get_dtype(), "shape": tensor.get_shape()}
                    index[name] = (file, entry)
        except (SafetensorError, OSError) as error:
            raise MicrotomeError(
                f"{file}: not a safetensors file, cut short or damaged ({in_short(error)}); "
                "fetch it again"
            ) from error
    return index


def weight_files(folder: Path) -> list[Path]:
    """The safetensors that make up the model, in name order.

    As in transformers, `model.safetensors` goes before the shards of an index that lies beside it.

    Raises:
        MicrotomeError: there are none under transformers' names, or the index is damaged.
    """
    single, index = folder / "model.safetensors", folder / INDEX
    if single.exists():
        return [single]
    if index.exists():
        try:
            names = sorted(set(read_json(index)["weight_map"].values()))
            return [folder / Path(name).name for name in names]
        except (KeyError, AttributeError, TypeError):
            raise MicrotomeError(f"{index}: has no weight_map; fetch it again") from None
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    if others:
        raise MicrotomeError(
            f"{folder}: neither model.safetensors nor {INDEX}, but {in_short(', '.join(others))}; "
            "rename the file that holds the model, or bring the index of its shards"
        )
    pickles = sorted(file.name for file in folder.glob("*.bin"))
    beside = f" ({', '.join(pickles)} is a pickle, which is never opened)" if pickles else ""
    raise MicrotomeError(
        f"{folder}: no safetensors{beside}; use a revision or a converted copy that has them"
    )


def side_files(folder: Path) -> list[Path]:
    """Configuration and tokenizer: everything but weights, their index, and code."""
    return [
        file
        for file in source_files(folder)
        if file.suffix != ".safetensors" and not file.name.endswith(".index.json")
    ]


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file; a MicrotomeError where it holds none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    except OSError as error:
        raise MicrotomeError(f"{file}: {error.strerror}; mend that, or fetch it again") from None
    if not isinstance(content, dict):
        raise MicrotomeError(f"{file}: not a JSON object, cut short or damaged; fetch it again")
    return content
