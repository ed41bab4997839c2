"""Checkpoints as they are published, each swept and held beside transformers' own loading of it.

Hidden states, final norm and logits are equal bit for bit, and the weights are linked, not copied.
GGUF is in test_gguf.py, float8 in test_float8.py, what sees or hears in test_text_parts.py.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hooked import assert_swept_as_loaded
from origins import COMMIT, LATER, SIZES, contents, edit, refused, rewrite, save, shard, tiny
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import microtome.models.sources as sources
from microtome.models.checkpoint import read_config, tensor_index
from microtome.models.fetch import fetch
from microtome.models.origins import missing, resolve
from microtome.models.skeleton import skeleton
from microtome.texts.stimuli import Stimulus
from microtome.texts.tokens import token_table

pytestmark = pytest.mark.usefixtures("dialled")


def renamed(model_type: str, *pairs: tuple[str, str], **changes) -> Callable[[Path], None]:
    """Lay out a model with parts of its tensors' names replaced."""

    def lay(folder: Path) -> None:
        def change(tensors: dict) -> dict:
            for old, new in pairs:
                assert any(old in name for name in tensors)
                tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
            return tensors

        save(folder, model_type, **changes)
        rewrite(folder, change)

    return lay


def with_buffers(model_type: str, **buffers: torch.Tensor) -> Callable[[Path], None]:
    """Lay out a model with tensors among its weights that it has no use for."""

    def lay(folder: Path) -> None:
        save(folder, model_type)
        rewrite(folder, lambda tensors: tensors | buffers)

    return lay


def in_shards(model_type: str) -> Callable[[Path], None]:
    def lay(folder: Path) -> None:
        save(folder, model_type)
        shard(folder)

    return lay


def tied(kind: str) -> Callable[[Path], None]:
    """Lay out a model whose config says that embedding and head are tied."""

    def lay(folder: Path) -> None:
        save(folder, "llama", tie_word_embeddings=True)
        embedding = "model.embed_tokens.weight"

        def change(tensors: dict) -> dict:
            match kind:
                case "stored twice":
                    tensors["lm_head.weight"] = tensors[embedding].clone()
                case "stored as the head":
                    tensors["lm_head.weight"] = tensors.pop(embedding)
                case "stored with a head of its own":
                    tensors["lm_head.weight"] = 2 * tensors[embedding]
            return tensors

        rewrite(folder, change)

    return lay


#: How each is laid out in its folder.
LAYOUTS: dict[str, Callable[[Path], None]] = {
    "names with the base model's prefix": lambda folder: save(folder, "gpt2"),
    "names without it": renamed("gpt2", ("transformer.", "")),
    "a LLaMA without it": renamed("llama", ("model.", ""), tie_word_embeddings=True),
    "causal masks among the weights": with_buffers(
        "gpt2",
        **{
            "transformer.h.0.attn.bias": torch.ones(1, 1, 32, 32, dtype=torch.uint8).tril(),
            "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
        },
    ),
    "rotary frequencies among the weights": with_buffers(
        "llama", **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.rand(4)}
    ),
    "shards with an index": in_shards("llama"),
    "shards of experts": in_shards("mixtral"),
    **{
        f"tied embeddings, {kind}": tied(kind)
        for kind in ("stored once", "stored twice", "stored as the head")
    },
    "tied embeddings, stored with a head of its own": tied("stored with a head of its own"),
    "bfloat16": lambda folder: save(folder, "llama", torch.bfloat16),
    "float16": lambda folder: save(folder, "gpt2", torch.float16),
    # Stored under other names than transformers' modules have.
    "a head called embed_out": lambda folder: save(folder, "gpt_neox"),
    "layer norms of gamma and beta": renamed(
        "bert",
        ("LayerNorm.weight", "LayerNorm.gamma"),
        ("LayerNorm.bias", "LayerNorm.beta"),
        is_decoder=True,
        architectures=["BertLMHeadModel"],
    ),
    # Stored in other pieces than transformers' modules have: joined as their block is read.
    **{
        f"experts of {family}, stored one by one": (
            lambda folder, family=family: save(folder, family, head_dim=6)
        )
        for family in ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "phimoe")
    },
    "experts in bfloat16, stored one by one": lambda folder: save(
        folder, "qwen3_moe", torch.bfloat16
    ),
    "experts of DeepSeek-V3, behind a dense layer": lambda folder: save(
        folder,
        "deepseek_v3",
        **{"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
        **{"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4},
        **{"v_head_dim": 8, "head_dim": 4, "num_key_value_heads": 4},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_is_swept_as_transformers_loads_it(layout, tmp_path, out):
    origin = tmp_path / "mine"
    LAYOUTS[layout](origin)
    before = contents(origin)
    fetch(sources.Folder(origin), out)
    weights = [file for file in out.iterdir() if ".safetensors" in file.name]
    assert weights and all(file.resolve().parent == origin for file in weights)
    assert contents(origin) == before
    assert_swept_as_loaded(out, AutoModelForCausalLM.from_pretrained(origin, dtype=torch.float32))


def test_layouts_are_what_their_names_say(tmp_path):
    """Names and shapes in the files differ from those of the modules where a layout says so."""
    apart = {"names without it", "a LLaMA without it", "a head called embed_out"}
    for layout in LAYOUTS:
        folder = tmp_path / layout
        LAYOUTS[layout](folder)
        stored = {
            name: tensor
            for file in folder.glob("*.safetensors")
            for name, tensor in load_file(file).items()
        }
        model = AutoModelForCausalLM.from_pretrained(folder)
        lacking = model.state_dict().keys() - stored.keys() - model.all_tied_weights_keys.keys()
        other = layout in apart or "experts" in layout or "gamma" in layout or "head" in layout
        assert bool(lacking) == (other and "a head of its own" not in layout), layout
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


def test_several_weights_stored_in_one(tmp_path):
    """HRM, whose blocks run in turns and cannot be swept, has q, k, v and a gate in one tensor."""
    save(tmp_path, "hrm_text")
    stored = load_file(tmp_path / "model.safetensors")
    expected = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert any("gqkv_proj" in name for name in stored) and len(stored) < len(expected)
    model = skeleton(read_config(tmp_path))
    origins = resolve(model, tensor_index(tmp_path))
    assert origins.keys() == expected.keys() and not missing(model, origins)
    for name, origin in origins.items():
        assert torch.equal(origin.make(model, stored.__getitem__), expected[name])


def test_weights_beyond_all_memory():
    """A skeleton takes none, even where the experts of a block are half a terabyte."""
    sizes = {"hidden_size": 2**14, "moe_intermediate_size": 2**16, "num_hidden_layers": 1}
    experts = {"num_experts": 64, "num_local_experts": 64}
    config = AutoConfig.for_model("qwen3_moe", **(SIZES | sizes | experts))
    experts = skeleton(config).get_submodule("model.layers.0.mlp.experts")
    assert experts.gate_up_proj.is_meta and experts.gate_up_proj.nbytes == 2**39


# ---- Adapters of PEFT


def low_rank(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Factors A and B of an adapter of rank 2 for some weights of a LLaMA, by module."""
    torch.manual_seed(1)
    shapes = {name: t.shape for name, t in load_file(folder / "model.safetensors").items()}
    return {
        name.removesuffix(".weight"): (torch.randn(2, columns) / 4, torch.randn(rows, 2) / 4)
        for name, (rows, columns) in ((n, s) for n, s in shapes.items() if len(s) == 2)
        if name.endswith(("q_proj.weight", "v_proj.weight", "down_proj.weight"))
    }


def test_a_model_with_an_adapter_merged_by_peft(tmp_path, out):
    """What merge_and_unload().save_pretrained() leaves: seen to be a base model's files.

    PEFT 0.21 adds scaling × B @ A (`peft/tuners/lora/layer.py`, `get_delta_weight`); names and
    config stay those of the base model. A head that was trained with it has its own weight, and
    PEFT sets tie_word_embeddings to false.
    """
    origin, scaling = tmp_path / "merged", 2.0
    save(origin, "llama", tie_word_embeddings=True)
    base = AutoModelForCausalLM.from_pretrained(origin).eval()
    adapter = low_rank(origin)
    assert len(adapter) == 9
    head = 1.5 * base.lm_head.weight.detach()

    def merge(tensors: dict) -> dict:
        for module, (a, b) in adapter.items():
            tensors[f"{module}.weight"] += scaling * (b @ a)
        return tensors | {"lm_head.weight": head}

    rewrite(origin, merge)
    edit(origin, tie_word_embeddings=False)
    fetch(sources.Folder(origin), out)
    merged = AutoModelForCausalLM.from_pretrained(origin)
    assert_swept_as_loaded(out, merged)

    # The base model with the adapter beside its weights, as it was trained.
    for module, (a, b) in adapter.items():
        base.get_submodule(module).register_forward_hook(
            lambda module, args, output, a=a, b=b: output + scaling * (args[0] @ a.T @ b.T)
        )
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        expected = base.model(ids).last_hidden_state @ head.T
        torch.testing.assert_close(merged.eval()(ids).logits, expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_alone_is_refused(hub, tmp_path, out):
    save(tmp_path / "base", "llama")
    factors = low_rank(tmp_path / "base")
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2}')
    save_file(
        {
            f"base_model.model.{module}.lora_{letter}.weight": factor
            for module, pair in factors.items()
            for letter, factor in zip("AB", pair, strict=True)
        },
        folder / "adapter_model.safetensors",
    )
    hub.add("tiny/adapter", folder)
    said = "holds an adapter of PEFT; merge it into its model with merge_and_unload()"
    refused(lambda: fetch(sources.Folder(folder), out), f"{folder}: {said}")
    refused(lambda: fetch(sources.Hub("tiny/adapter", COMMIT), out), said)
    assert hub.fetched_files() == {"adapter_config.json"}
    for file in (tmp_path / "base").iterdir():  # nor is the model swept without it
        (folder / file.name).write_bytes(file.read_bytes())
    refused(lambda: fetch(sources.Folder(folder), out), f"{folder}: {said}")
    assert not list(out.parent.glob("*"))


# ---- Tokenizers

WORDS = ["<s>", "</s>", "?", "the", "capital", "of", "France", "is"]
TEXTS = ["the capital of France is", "is France the capital", "of"]


def tokenizer(folder: Path, *, begins: bool, **special: str) -> None:
    """Save a tokenizer of words, which may begin a text with <s>."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if begins:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?", **special).save_pretrained(folder)


TOKENIZERS = {
    "without pad or BOS": {"begins": False},
    "with BOS that it does not add": {"begins": False, "bos_token": "<s>", "eos_token": "</s>"},
    "that adds BOS": {"begins": True, "bos_token": "<s>", "eos_token": "</s>"},
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_tokenizer(kind, tmp_path, out):
    save(tmp_path / "mine", "llama")
    tokenizer(tmp_path / "mine", **TOKENIZERS[kind])
    fetch(sources.Folder(tmp_path / "mine"), out)
    own = AutoTokenizer.from_pretrained(tmp_path / "mine")
    assert own.pad_token is None and (own.bos_token is None) == (kind == "without pad or BOS")

    table = token_table([Stimulus(text) for text in TEXTS], out)
    begins = [0] if kind == "that adds BOS" else []
    ids = [[*begins, *map(WORDS.index, text.split())] for text in TEXTS]
    assert ids == own(TEXTS)["input_ids"]
    assert table["token_id"].values.tolist() == [i for text in ids for i in text]
    assert table["position"].values.tolist() == [p for text in ids for p in range(len(text))]
    assert table["text"].values.tolist() == [WORDS[i] for text in ids for i in text]
    if begins:
        added = [position == 0 for text in ids for position in range(len(text))]
        assert table["special"].values.tolist() == added
    else:
        assert "special" not in table
    # Nothing is padded: texts of unlike length are swept like any others.
    assert_swept_as_loaded(out, AutoModelForCausalLM.from_pretrained(tmp_path / "mine"))


def test_a_tokenizer_that_lies_at_the_pinned_revision_only(hub, tmp_path, out, dialled):
    """A later commit, which main points at, has other weights and no tokenizer."""
    tiny(tmp_path / "then", "llama")
    tokenizer(tmp_path / "then", begins=True, bos_token="<s>")
    hub.add("tiny/model", tmp_path / "then")
    later = tmp_path / "now"
    tiny(later, "llama")
    rewrite(later, lambda tensors: {name: 2 * tensor for name, tensor in tensors.items()})
    for file in later.glob("*token*"):
        file.unlink()
    hub.add("tiny/model", later, LATER)

    assert fetch(sources.parse_source(f"hf://tiny/model@{COMMIT}"), out) == COMMIT
    assert not any("main" in request or LATER in request for request in hub.requests)
    asked, connected = len(hub.requests), len(dialled)
    table = token_table([Stimulus("the capital")], out)
    assert table["token_id"].values.tolist() == [0, 3, 4]
    assert_swept_as_loaded(out, AutoModelForCausalLM.from_pretrained(tmp_path / "then"))
    assert (len(hub.requests), len(dialled)) == (asked, connected)

    # At the later commit there is none, and none is looked for elsewhere.
    other = out.with_name("later")
    fetch(sources.parse_source(f"hf://tiny/model@{LATER}"), other)
    refused(lambda: token_table([Stimulus("the capital")], other), other, "tokenizer")
    assert not np.array_equal(
        *(load_file(f / "model.safetensors")["lm_head.weight"] for f in (out, other))
    )
