"""A checkpoint folder: its config, its sizes, and where its tensors lie.

It holds config.json, the tokenizer and safetensors under the names of transformers' own modules.
Nothing of it is ever executed: no pickle is opened, no remote code is run.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from microtome.errors import MicrotomeError, in_short

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def sizes(config: "PretrainedConfig") -> dict[str, int]:
    """A model's dimensions under Microtome's names, whatever its architecture calls them.

    Raises:
        MicrotomeError: an architecture that has no such dimension, say no attention heads.
    """
    text = config.get_text_config()

    def first(*names: str) -> int:
        values = (getattr(text, name, None) for name in names)
        found = next((value for value in values if value is not None), None)
        if found is None:
            raise MicrotomeError(
                f"{config.name_or_path}: the config of a {config.model_type!r} has no {names[0]}; "
                "use a transformer of attention and MLP blocks"
            )
        return found

    heads = first("num_attention_heads")
    hidden = first("hidden_size")
    return {
        "n_layers": first("num_hidden_layers"),
        "d_model": hidden,
        "n_heads": heads,
        "n_kv_heads": getattr(text, "num_key_value_heads", None) or heads,
        "d_head": getattr(text, "head_dim", None) or hidden // heads,
        "d_mlp": getattr(text, "intermediate_size", None)
        or getattr(text, "n_inner", None)
        or getattr(text, "ffn_dim", None)
        or 4 * hidden,
        "d_vocab": first("vocab_size"),
        "n_context": first("max_position_embeddings", "seq_length", "max_seq_len"),
    }


def read_config(folder: Path) -> "PretrainedConfig":
    """The transformers config of a checkpoint folder.

    Raises:
        MicrotomeError: no config.json, one that is damaged or that only remote code could
            serve, or that of another kind of model.
    """
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    file = folder / "config.json"
    if not file.is_file():
        raise MicrotomeError(f"{folder}: no config.json; name a folder that holds a checkpoint")
    model_type = read_json(file).get("model_type")
    if model_type not in CONFIG_MAPPING_NAMES:
        raise MicrotomeError(
            f"{file}: model_type {model_type!r} is not part of transformers: it wants remote "
            "code, which Microtome never runs; use an architecture of transformers"
        )
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise MicrotomeError(
            f"{file}: model_type {model_type!r} is no causal language model; use one that is"
        )
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a config class says about its values
        raise MicrotomeError(
            f"{file}: transformers refuses it ({in_short(error)}); correct it"
        ) from error


def tensor_index(folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
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
    """The safetensors that make up the model, in name order."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(set(read_json(index)["weight_map"].values()))
            return [folder / Path(name).name for name in names]
        except (KeyError, AttributeError, TypeError):
            raise MicrotomeError(f"{index}: has no weight_map; fetch it again") from None
    single = folder / "model.safetensors"
    found = [single] if single.exists() else sorted(folder.glob("*.safetensors"))
    if not found:
        pickles = sorted(f.name for f in folder.glob("*.bin"))
        beside = f" ({', '.join(pickles)} is a pickle, which is never opened)" if pickles else ""
        raise MicrotomeError(
            f"{folder}: no safetensors{beside}; use a revision or a converted copy that has them"
        )
    return found


def side_files(folder: Path) -> list[Path]:
    """Configuration and tokenizer: everything but weights, their index, and code."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix in {".json", ".txt", ".model", ".jinja"}
        and not file.name.endswith(".index.json")
    )


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file; a MicrotomeError where it holds none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise MicrotomeError(f"{file}: not a JSON object, cut short or damaged; fetch it again")
    return content
