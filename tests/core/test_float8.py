"""Block-wise float8, against transformers' own dequantisation of the same folder."""

import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import describe
from hooked import assert_swept_as_loaded, taps_at
from origins import contents, edit, refused, rewrite, save
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config
from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight

import microtome.models.sources as sources
from microtome.models.fetch import described, fetch
from microtome.models.mapped import MappedModel
from microtome.models.stored import StoredMLP
from microtome.sweeps import cost

PLAN = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "plan.py"))
#: Divides none of the widths but 24 and 40 of test_layouts, as 128 does those of releases.
BLOCK = 8
#: Families whose matrices are float8, and what else they are made with.
FAMILIES = {
    "qwen3": {},
    "qwen3_moe": {},
    "deepseek_v3": {
        **{"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
        **{"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8},
        **{"v_head_dim": 8, "head_dim": 8, "num_key_value_heads": 4},
    },
}


def in_float8(folder: Path, model_type: str, block: int | None = BLOCK, **changes: object) -> None:
    """Save a random model whose blocks' matrices are float8 with scales, and the rest bfloat16."""
    save(folder, model_type, torch.bfloat16, **changes)
    random = torch.Generator().manual_seed(1)

    def change(tensors: dict) -> dict:
        made = {}
        for name, weight in tensors.items():
            if ".layers." not in name or not name.endswith("proj.weight"):
                made[name] = weight
                continue
            rows, columns = weight.shape
            grid = (1,) if block is None else (-(-rows // block), -(-columns // block))
            scales = torch.rand(grid, generator=random) / 500 + 1e-3
            made[f"{name}_scale_inv"] = scales if block else scales[0]
            made[name] = (weight.float() / scales.mean()).clamp(-448, 448).to(torch.float8_e4m3fn)
        return made

    rewrite(folder, change)
    size = None if block is None else [block, block]
    edit(folder, quantization_config={"quant_method": "fp8", "weight_block_size": size})


def dequantised(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """The model as transformers loads it without the float8 kernels of a GPU."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, quantization_config=FineGrainedFP8Config(dequantize=True)
    )
    return model.to(dtype)  # transformers leaves what has no scales in bfloat16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_transformers(family, dtype, tmp_path, out):
    in_float8(tmp_path / "mine", family, **FAMILIES[family])
    before = contents(tmp_path / "mine")
    fetch(sources.Folder(tmp_path / "mine"), out)
    assert all(file.is_symlink() for file in out.iterdir())
    assert contents(tmp_path / "mine") == before
    expected = dequantised(tmp_path / "mine", getattr(torch, dtype))
    state = expected.state_dict()
    assert any(weight.std() > 0 for weight in state.values())
    model, found = MappedModel(out, dtype), {}
    for layer, weights in model.weights_of_blocks(range(3)):
        found |= {f"model.layers.{layer}.{name}": w.clone() for name, w in weights.items()}
    assert found.keys() == {name for name in state if ".layers." in name}
    for name, weight in found.items():
        assert torch.equal(weight, state[name]), name
    if dtype == "float32":
        assert_swept_as_loaded(out, expected)


def test_one_scale_for_a_tensor(tmp_path, out):
    in_float8(tmp_path / "mine", "llama", block=None)
    fetch(sources.Folder(tmp_path / "mine"), out)
    assert_swept_as_loaded(out, dequantised(tmp_path / "mine", torch.float32))


def test_blocks_that_end_beyond_the_matrix(tmp_path, out):
    """As in DeepSeek-V3, 576 rows in blocks of 128; the loading of transformers 5.23 wants a grid
    that divides the matrix, what it dequantises with for the backward pass does not."""
    in_float8(tmp_path / "mine", "qwen3", block=16)
    fetch(sources.Folder(tmp_path / "mine"), out)
    stored = load_file(tmp_path / "mine" / "model.safetensors")
    model, seen = MappedModel(out), set()
    for layer in range(3):
        for name, weight in model.block_weights(layer).items():
            key = f"model.layers.{layer}.{name}"
            scales = stored.get(f"{key}_scale_inv")
            if scales is not None:
                expected = _dequantize_fp8_weight(stored[key], scales, [16, 16], torch.float32)
                assert torch.equal(weight, expected)
                seen.add(weight.shape)
    assert (40, 24) in seen and (24, 40) in seen


@pytest.mark.parametrize("block", [None, 8, 16])
def test_weights_are_read_without_torch(block, tmp_path, out):
    in_float8(tmp_path / "mine", "qwen3", block=block)
    fetch(sources.Folder(tmp_path / "mine"), out)
    mlp, model = StoredMLP(out, described(out), taps_at(out)), MappedModel(out)
    weights = model.block_weights(1)
    for projection, name in zip(
        mlp.projections, ("gate_proj", "up_proj", "down_proj"), strict=True
    ):
        np.testing.assert_array_equal(
            mlp.weight(projection, 1), weights[f"mlp.{name}.weight"].T, strict=True
        )


def test_what_it_costs(tmp_path, out):
    """A byte for each number of a block, two for each outside; experts are joined."""
    models = {}
    for family in ("qwen3", "qwen3_moe"):
        origin = tmp_path / family
        in_float8(origin, family, vocab_size=640)
        fetch(sources.Folder(origin), out)
        models[family] = cost.model(json.loads(describe(out).read_text()))
        assert 1 < models[family].stored < 1.2 and models[family].outside == 2
        planned = PLAN["of_config"](sources.Folder(origin))
        assert 1 < planned.stored < 1.2 and planned.outside == 2
        assert 0 < models[family].block - planned.block < 0.05 * planned.block  # scales
    assert models["qwen3"].joined == 0
    experts = 4 * 3 * 16 * 24
    scales = experts // BLOCK**2
    assert models["qwen3_moe"].joined == experts
    stored = load_file(tmp_path / "qwen3_moe" / "model.safetensors")
    numbers = sum(math.prod(t.shape) for name, t in stored.items() if ".layers.0." in name)
    assert models["qwen3_moe"].block == numbers > experts + scales


def test_an_untrained_twin_is_not_float8(tmp_path, out):
    in_float8(tmp_path / "mine", "qwen3_moe")
    fetch(sources.Folder(tmp_path / "mine"), out)
    twin = out.with_name("untrained")
    fetch(sources.Untrained("mine", 0), twin, reference=out)
    assert "quantization_config" not in json.loads((twin / "config.json").read_text())
    assert_swept_as_loaded(twin, AutoModelForCausalLM.from_pretrained(twin))


def lose_scales(tensors: dict) -> dict:
    return {name: t for name, t in tensors.items() if "1.mlp.up_proj.weight_scale_inv" not in name}


def other_grid(tensors: dict) -> dict:
    return {
        name: t[:-1].clone() if "1.mlp.up_proj.weight_scale_inv" in name else t
        for name, t in tensors.items()
    }


def scales_of_exponents(tensors: dict) -> dict:
    return {
        name: t.to(torch.float8_e8m0fnu) if "1.mlp.up_proj.weight_scale_inv" in name else t
        for name, t in tensors.items()
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lose_scales, "is missing [], where the float8 weight wants floats [5, 3]"),
        (other_grid, "is F32 [4, 3], where the float8 weight wants floats [5, 3]"),
        (scales_of_exponents, "is F8_E8M0 [5, 3], where the float8 weight wants floats [5, 3]"),
    ],
)
def test_other_scales_are_refused(change, said, tmp_path, out):
    in_float8(tmp_path / "mine", "qwen3")
    rewrite(tmp_path / "mine", change)
    name = "model.layers.1.mlp.up_proj.weight_scale_inv"
    refused(lambda: fetch(sources.Folder(tmp_path / "mine"), out), f"{name!r} {said}")
    assert not list(out.parent.glob("*"))


def test_float8_of_a_model_that_does_not_say_so_is_refused(tmp_path, out):
    in_float8(tmp_path / "mine", "qwen3")
    edit(tmp_path / "mine", quantization_config=None)
    refused(lambda: fetch(sources.Folder(tmp_path / "mine"), out), "is stored as F8_E4M3")
