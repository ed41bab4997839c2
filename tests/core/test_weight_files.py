"""Which weights of a folder are read, and which cannot be: quantised ones, links to nowhere."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from origins import COMMIT, contents, edit, logits, refused, shard, tiny
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import microtome.models.sources as sources
from microtome.models.checkpoint import config_json, read_config, source_files
from microtome.models.fetch import fetch

# ---- Quantised weights

#: What releases on the hub say of their weights, and the name of the method.
QUANTISED = {
    "FP8 by other blocks": (
        {"quantization_config": {"quant_method": "fp8", "weight_block_size": 128}},
        "fp8",
    ),
    "GPTQ": ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
    "AWQ": ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq"),
    "gpt-oss": ({"quantization_config": {"quant_method": "mxfp4"}}, "mxfp4"),
    "bitsandbytes": (
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        "bitsandbytes",
    ),
    "an old bitsandbytes": ({"quantization_config": {"load_in_8bit": True}}, "bitsandbytes"),
    "compressed tensors": (
        {"quantization_config": {"quant_method": "compressed-tensors"}},
        "compressed-tensors",
    ),
    "an old compressed-tensors": (
        {"compression_config": {"quant_method": "compressed-tensors"}},
        "compressed-tensors",
    ),
    "no method named": ({"quantization_config": {"bits": 8}}, "quantization_config"),
    "the text's part": (
        {"text_config": {"quantization_config": {"quant_method": "fp8"}}},
        "fp8",
    ),
}


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_weights_are_refused_by_their_methods_name(kind, tmp_path, out):
    tiny(tmp_path / "mine", "llama")
    keys, method = QUANTISED[kind]
    edit(tmp_path / "mine", **keys)
    said = f"config.json: the weights are quantised ({method})", "bfloat16, float16 or float32"
    refused(lambda: config_json(tmp_path / "mine"), *said)
    refused(lambda: read_config(tmp_path / "mine"), *said)
    refused(lambda: fetch(sources.Folder(tmp_path / "mine"), out), *said)
    assert not list(out.parent.glob("*"))


@pytest.mark.parametrize("empty", [None, {}])
def test_a_config_that_names_no_method_is_taken(empty, tmp_path, out):
    model = tiny(tmp_path / "mine", "llama")
    edit(tmp_path / "mine", quantization_config=empty)
    assert config_json(tmp_path / "mine")["model_type"] == "llama"
    if empty is None:  # transformers itself refuses the other
        fetch(sources.Folder(tmp_path / "mine"), out)
        assert torch.equal(logits(out), logits(model))


@pytest.mark.usefixtures("dialled")
def test_quantised_weights_of_a_hub_are_not_downloaded(hub, tmp_path, out):
    tiny(tmp_path / "mine", "llama")
    edit(tmp_path / "mine", quantization_config={"quant_method": "gptq"})
    hub.add("tiny/model", tmp_path / "mine")
    refused(
        lambda: fetch(sources.Hub("tiny/model", COMMIT), out), "the weights are quantised (gptq)"
    )
    assert hub.fetched_files() == {"config.json"}


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
@pytest.mark.parametrize("model_type", ["llama", "mixtral"])  # linked, and converted
def test_one_weight_of_another_dtype_is_named(dtype, model_type, tmp_path, out):
    tiny(tmp_path / "mine", model_type)
    file = tmp_path / "mine" / "model.safetensors"
    tensors = load_file(file)
    name = next(n for n in tensors if "layers.1." in n and ("down_proj" in n or "experts.1" in n))
    tensors[name] = tensors[name].mul(3).to(dtype)
    save_file(tensors, file, {"format": "pt"})
    stored = {torch.int8: "I8", torch.uint8: "U8", torch.float8_e4m3fn: "F8_E4M3"}[dtype]
    refused(
        lambda: fetch(sources.Folder(tmp_path / "mine"), out),
        f"model.safetensors: {name!r} is stored as {stored}",
    )
    assert not list(out.parent.glob("*"))


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neox"])
def test_causal_masks_among_the_weights_may_be_bytes(model_type, tmp_path, out):
    """As old releases of GPT-2 and Pythia have them."""
    model = tiny(tmp_path / "mine", model_type)
    file = tmp_path / "mine" / "model.safetensors"
    names = {"gpt2": "transformer.h.0.attn", "gpt_neox": "gpt_neox.layers.0.attention"}
    mask = {f"{names[model_type]}.bias": torch.ones(1, 1, 32, 32, dtype=torch.uint8).tril()}
    save_file(load_file(file) | mask, file, {"format": "pt"})
    fetch(sources.Folder(tmp_path / "mine"), out)
    assert torch.equal(logits(out), logits(model))


# ---- One file or shards


def logits_of(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder).eval()(torch.tensor([[3, 1, 4]])).logits


@pytest.mark.parametrize("whole", [True, False])
def test_one_file_goes_before_shards_beside_it_as_in_transformers(whole, tmp_path, out):
    tiny(tmp_path / "mine", "llama")
    file = tmp_path / "mine" / "model.safetensors"
    newer = {name: 2 * tensor for name, tensor in load_file(file).items()}
    shard(tmp_path / "mine")
    if whole:
        save_file(newer, file, {"format": "pt"})
    fetch(sources.Folder(tmp_path / "mine"), out)
    assert torch.equal(logits_of(out), logits_of(tmp_path / "mine"))
    names = {path.name for path in out.glob("*.safetensors*")}
    assert (names == {"model.safetensors"}) == whole


def test_weights_under_another_name_are_refused(tmp_path, out):
    """Transformers finds none there."""
    tiny(tmp_path / "mine", "llama")
    file = tmp_path / "mine" / "model.safetensors"
    file.rename(file.with_name("consolidated.safetensors"))
    with pytest.raises(OSError, match=r"model\.safetensors"):
        logits_of(tmp_path / "mine")

    def act() -> None:
        fetch(sources.Folder(tmp_path / "mine"), out)

    refused(act, "mine: neither model.safetensors nor", "consolidated.safetensors", "rename")
    edit(tmp_path / "mine", transformers_weights="consolidated.safetensors")
    refused(act, "config.json: transformers_weights is 'consolidated.safetensors'", "rename")


# ---- Files that cannot be read


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "model.safetensors", "old.safetensors", "m.txt"]
)
@pytest.mark.parametrize("kind", ["a link that leads nowhere", "not a file"])
def test_what_is_no_file_is_named(name, kind, tmp_path, out):
    tiny(tmp_path / "mine", "llama")
    file = tmp_path / "mine" / name
    file.unlink(missing_ok=True)
    if kind == "not a file":
        file.mkdir()
    else:
        file.symlink_to(tmp_path / "gone")
    for act in (
        lambda: source_files(tmp_path / "mine"),
        lambda: fetch(sources.Folder(tmp_path / "mine"), out),
    ):
        refused(act, f"{file}: {kind}")
    assert not list(out.parent.glob("*"))


def test_a_file_or_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    tiny(tmp_path / "mine", "llama")
    locked = tmp_path / "mine" / "config.json"
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != locked and access(path, mode))
    refused(lambda: source_files(tmp_path / "mine"), f"{locked}: no permission to read it")
    shutil.rmtree(tmp_path / "mine")
    refused(lambda: source_files(tmp_path / "mine"), f"{tmp_path / 'mine'}: No such file")


def test_what_lies_beside_a_model_does_not_matter(tmp_path, out):
    model = tiny(tmp_path / "mine", "llama")
    (tmp_path / "mine" / "pytorch_model.bin").symlink_to(tmp_path / "gone")
    (tmp_path / "mine" / "onnx").mkdir()
    before = contents(tmp_path / "mine")
    fetch(sources.Folder(tmp_path / "mine"), out)
    assert torch.equal(logits(out), logits(model))
    assert contents(tmp_path / "mine") == before
