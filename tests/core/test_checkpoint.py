"""Checkpoints of folders and untrained ones: what `fetch` makes of them, and what it refuses.

Pickles and code that lie beside the weights are traps that leave a mark; nothing is reached over
the network.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from origins import CONFIGS, Trap, contents, edit, logits, refused, shard, tiny
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import microtome.models.sources as sources
from microtome.models.checkpoint import read_config, sizes
from microtome.models.fetch import fetch, manifest

#: Sockets are watched: nothing but a loopback stand-in for the hub is reached.
pytestmark = pytest.mark.usefixtures("dialled")


def test_traps_spring(tmp_path):
    mark = tmp_path / "sprung-on-purpose"
    torch.save({"weight": Trap(mark)}, tmp_path / "pytorch_model.bin")
    torch.load(tmp_path / "pytorch_model.bin", weights_only=False)
    assert mark.exists()


# ---- Folders


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gpt_neox", "mixtral"])
def test_a_folder_is_linked(model_type, dtype, tmp_path, out, traps, dialled):
    origin = tmp_path / "mine"
    model = tiny(origin, model_type, dtype)
    laid = traps(origin)
    before = contents(origin)

    assert fetch(sources.Folder(origin), out) == str(origin)

    made = {path.name: path for path in out.iterdir()}
    assert all(path.is_symlink() and path.resolve().parent == origin for path in made.values())
    assert set(made) == set(before) - set(laid)
    assert contents(origin) == before
    assert torch.equal(logits(out), logits(model))
    assert logits(out).dtype == dtype
    assert AutoTokenizer.from_pretrained(out)("the capital of Rome")["input_ids"] == [0, 1, 2, 5]
    assert not dialled


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("gpt2", {"n_kv_heads": 2, "d_head": 8, "d_mlp": 64}),
        ("llama", {"n_kv_heads": 1, "d_head": 8, "d_mlp": 24}),
    ],
)
def test_manifest(model_type, expected, tmp_path, out):
    model = tiny(tmp_path / "mine", model_type, torch.bfloat16)
    revision = fetch(sources.Folder(tmp_path / "mine"), out)
    found = manifest(out, name="mine", source="somewhere", revision=revision)

    weights = (tmp_path / "mine" / "model.safetensors").read_bytes()
    assert found.pop("weights") == {
        "model.safetensors": {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
    }
    stored = {name: t for name, t in model.state_dict().items() if name != "lm_head.weight"}
    if not model.config.tie_word_embeddings:
        stored["lm_head.weight"] = model.lm_head.weight
    assert found.pop("tensors") == {
        name: {"dtype": "BF16", "shape": list(tensor.shape)} for name, tensor in stored.items()
    }
    assert found == expected | {
        "model": "mine",
        "source": "somewhere",
        "revision": str(tmp_path / "mine"),
        "architecture": model_type,
        "head": "causal",
        "n_layers": 2,
        "d_model": 16,
        "n_heads": 2,
        "d_vocab": 64,
        "n_context": 32,
    }


@pytest.mark.parametrize(
    ("model_type", "options", "expected"),
    [
        ("gpt2", {"n_inner": 40}, {"d_mlp": 40}),
        ("gpt_neo", {"num_layers": 2, "attention_types": [[["global"], 2]]}, {"n_layers": 2}),
        ("qwen3", {"head_dim": 48}, {"d_head": 48}),
        ("opt", {"ffn_dim": 100}, {"d_mlp": 100}),
        ("mpt", {"max_seq_len": 77}, {"n_context": 77}),
        ("gpt_bigcode", {}, {"n_kv_heads": 1}),
        ("falcon", {"num_attention_heads": 8}, {"n_kv_heads": 1}),
        ("falcon", {"num_kv_heads": 8, "new_decoder_architecture": True}, {"n_kv_heads": 8}),
        ("falcon", {"ffn_hidden_size": 100}, {"d_mlp": 100}),
        ("dbrx", {"attn_config": {"kv_n_heads": 8}}, {"n_kv_heads": 8}),
        ("deepseek_v3", {"qk_nope_head_dim": 24, "qk_rope_head_dim": 8}, {"d_head": 32}),
        ("gemma4_text", {"head_dim": 16}, {"d_head": 16}),  # other heads in some blocks
        ("mamba", {}, {"n_heads": 0, "d_head": 0}),
        ("gemma3", {"text_config": {"num_hidden_layers": 5}}, {"n_layers": 5}),
    ],
)
def test_sizes_of_other_families(model_type, options, expected):
    found = sizes(AutoConfig.for_model(model_type, **options))
    assert expected.items() <= found.items()


@pytest.mark.parametrize("model_type", ["bloom", "mamba", "recurrent_gemma"])
def test_texts_of_any_length(model_type):
    assert "n_context" not in sizes(AutoConfig.for_model(model_type))


def test_config_of_a_known_type_that_offers_code(tmp_path, out, traps):
    model = tiny(tmp_path / "mine", "llama")
    traps(tmp_path / "mine")
    file = tmp_path / "mine" / "config.json"
    offered = {
        "AutoConfig": "configuration_trap.TrapConfig",
        "AutoModelForCausalLM": "modeling_trap.TrapForCausalLM",
    }
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": offered}))

    fetch(sources.Folder(tmp_path / "mine"), out)
    fetch(sources.Untrained("mine", 0), out.with_name("fresh"), reference=out)
    assert torch.equal(logits(out), logits(model))
    assert type(read_config(out)).__module__.startswith("transformers.")


def test_what_a_broken_run_left_is_cleared(tmp_path, out):
    tiny(tmp_path / "mine", "gpt2")
    unfinished = out.with_name("checkpoint.partial")
    unfinished.mkdir(parents=True)
    (unfinished / "model.safetensors").write_text("half")
    fetch(sources.Folder(tmp_path / "mine"), out)
    assert [path.name for path in out.parent.iterdir()] == ["checkpoint"]
    assert "half" not in {path.name for path in out.iterdir()}


# ---- Refusals


def overwrite(folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return name


def header(content: object) -> bytes:
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text


def without_safetensors(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    return ""


def cut(folder: Path) -> str:
    weights = (folder / "model.safetensors").read_bytes()
    return overwrite(folder, "model.safetensors", weights[:-10])


def grow(folder: Path) -> str:
    weights = (folder / "model.safetensors").read_bytes()
    return overwrite(folder, "model.safetensors", weights + b"0123456789")


def lose_tensor(folder: Path) -> str:
    tensors = load_file(folder / "model.safetensors")
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return ""


def lose_shard(folder: Path) -> str:
    lost = shard(folder)[1]
    lost.unlink()
    return lost.name


def break_index(folder: Path, content: str) -> str:
    shard(folder)
    return overwrite(folder, "model.safetensors.index.json", content.encode())


def lead_elsewhere(folder: Path) -> str:
    shutil.copy(folder / "model.safetensors", folder.parent / "elsewhere.safetensors")
    break_index(folder, '{"weight_map": {"w": "../elsewhere.safetensors"}}')
    return "elsewhere.safetensors"


DAMAGE: dict[str, tuple[Callable[[Path], str], str]] = {
    # What is done to a folder (which returns the file at fault) and what has to be said of it.
    "only a pickle": (without_safetensors, "no safetensors (pytorch_model.bin"),
    "truncated": (cut, "cut short"),
    "longer than it says": (grow, "damaged"),
    "empty": (lambda f: overwrite(f, "model.safetensors", b""), "not a safetensors file"),
    "noise": (
        lambda f: overwrite(f, "model.safetensors", np.random.default_rng(0).bytes(4096)),
        "not a safetensors file",
    ),
    "a pointer of git lfs": (
        lambda f: overwrite(
            f, "model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
        ),
        "not a safetensors file",
    ),
    "a pickle by another name": (
        lambda f: overwrite(f, "model.safetensors", (f / "pytorch_model.bin").read_bytes()),
        "not a safetensors file",
    ),
    "header is no JSON": (
        lambda f: overwrite(f, "model.safetensors", (5).to_bytes(8, "little") + b"{{{{{"),
        "not a safetensors file",
    ),
    "header is a list": (
        lambda f: overwrite(f, "model.safetensors", header([1, 2])),
        "not a safetensors file",
    ),
    "header is a number": (
        lambda f: overwrite(f, "model.safetensors", header(5)),
        "not a safetensors file",
    ),
    "header without shapes": (
        lambda f: overwrite(f, "model.safetensors", header({"w": {"data_offsets": [0, 0]}})),
        "not a safetensors file",
    ),
    "no tensors": (
        lambda f: overwrite(f, "model.safetensors", header({})) and "",
        "weights are missing",
    ),
    "other width": (lambda f: edit(f, n_embd=32) and "", "of another shape"),
    "more layers than weights": (lambda f: edit(f, n_layer=3) and "", "'transformer.h.2."),
    "a tensor is missing": (lose_tensor, "'transformer.h.1.mlp.c_fc.weight'"),
    "a shard is missing": (lose_shard, "missing"),
    "index is no JSON": (lambda f: break_index(f, '{"weight_map": '), "not a JSON object"),
    "index without a map": (lambda f: break_index(f, "{}"), "weight_map"),
    "index with a list": (lambda f: break_index(f, '{"weight_map": ["a"]}'), "weight_map"),
    "index that leads elsewhere": (lead_elsewhere, "missing"),
    "no config": (lambda f: (f / "config.json").unlink() or "", "no config.json"),
    "config is no JSON": (lambda f: overwrite(f, "config.json", b"{"), "not a JSON object"),
    "config is no text": (lambda f: overwrite(f, "config.json", b"\xff\xfe\x00"), "not a JSON"),
    "config is a list": (lambda f: overwrite(f, "config.json", b"[]"), "not a JSON object"),
    "config without a type": (lambda f: overwrite(f, "config.json", b"{}"), "model_type None"),
    "config of another type": (lambda f: edit(f, n_head="two"), "n_head"),
    "config of no model": (lambda f: edit(f, n_head=3), "divisible"),
    "config of an encoder": (lambda f: edit(f, model_type="t5"), "neither a causal language model"),
    "remote code wanted": (
        lambda f: edit(
            f,
            model_type="trap",
            auto_map={
                "AutoConfig": "configuration_trap.TrapConfig",
                "AutoModelForCausalLM": "modeling_trap.TrapForCausalLM",
            },
        ),
        "remote code, which Microtome never runs",
    ),
    "remote code of another repository": (
        lambda f: edit(f, model_type="trap", auto_map={"AutoConfig": "org/name--trap.TrapConfig"}),
        "remote code, which Microtome never runs",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_refused_folder(damage, tmp_path, out, traps, dialled):
    origin = tmp_path / "mine"
    tiny(origin, "gpt2")
    traps(origin)
    spoil, said = DAMAGE[damage]
    at_fault = origin / spoil(origin)
    before = contents(origin)

    refused(lambda: fetch(sources.Folder(origin), out), at_fault, said)
    assert not list(out.parent.glob("*"))
    assert contents(origin) == before
    assert not dialled


def test_refused_folder_that_is_none(tmp_path, out):
    missing, file = tmp_path / "missing", tmp_path / "file"
    file.write_text("a file")
    for path in (missing, file):
        refused(lambda path=path: fetch(sources.Folder(path), out), path, "no such folder")
        assert not list(out.parent.glob("*"))


def test_refused_pieces(tmp_path, out):
    tiny(tmp_path / "mine", "mixtral")
    file = tmp_path / "mine" / "model.safetensors"
    tensors = load_file(file)
    expert = next(name for name in tensors if "experts.1" in name)
    tensors[expert] = tensors[expert][:-1].clone()
    save_file(tensors, file, metadata={"format": "pt"})
    said = "1 weights are missing", "'model.layers.0.mlp.experts."
    refused(lambda: fetch(sources.Folder(tmp_path / "mine"), out), tmp_path / "mine", *said)
    assert not list(out.parent.glob("*"))


def test_refused_sizes(tmp_path):
    refused(lambda: sizes(AutoConfig.for_model("vit")), "'vit'", "vocab_size")


# ---- Untrained


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_untrained(model_type, tmp_path, out, dialled):
    tiny(tmp_path / "mine", model_type, torch.bfloat16)
    reference = out.with_name("reference")
    fetch(sources.Folder(tmp_path / "mine"), reference)
    made = {}
    for name, seed in (("checkpoint", 7), ("again", 7), ("other", 8)):
        folder = out.with_name(name)
        torch.rand(seed)  # whatever was drawn before makes no difference
        revision = fetch(sources.Untrained("mine", seed), folder, reference=reference)
        assert revision == f"seed {seed}"
        made[name] = contents(folder)
    assert made["checkpoint"] == made["again"]
    assert made["checkpoint"]["model.safetensors"] != made["other"]["model.safetensors"]

    torch.manual_seed(7)
    config = AutoConfig.for_model(model_type, **CONFIGS[model_type])
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    found = AutoModelForCausalLM.from_pretrained(out)
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)
    assert not torch.equal(logits(out), logits(reference).float())

    old, new = (manifest(folder, name="m", source="s", revision="r") for folder in (reference, out))
    shapes = [{name: t["shape"] for name, t in found["tensors"].items()} for found in (old, new)]
    assert shapes[0] == shapes[1]
    assert {key: old[key] for key in old if key[:2] in ("n_", "d_")} == {
        key: new[key] for key in new if key[:2] in ("n_", "d_")
    }
    assert AutoTokenizer.from_pretrained(out)("the capital")["input_ids"] == [0, 1]
    assert not dialled


def test_a_folder_that_a_killed_run_left_is_replaced(tmp_path, out):
    tiny(tmp_path / "mine", "gpt2", torch.float32)
    source = sources.Folder(tmp_path / "mine")
    fetch(source, out)
    before = sorted(file.name for file in out.iterdir())
    (out / "stale.json").write_text("{}")
    fetch(source, out)
    assert sorted(file.name for file in out.iterdir()) == before


def test_untrained_without_its_model(out):
    refused(lambda: fetch(sources.Untrained("mine", 0), out), "'mine'", "not fetched")
    assert not list(out.parent.glob("*"))
