"""Weights read without torch, against the modules of Hugging Face's models."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import CONFIGS, blocks, build
from hooked import taps_at
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from microtome.errors import MicrotomeError
from microtome.figures.labels import site_definition
from microtome.models.fetch import described
from microtome.models.stored import StoredMLP
from microtome.models.taps import to_plain


def stored(folder):
    return StoredMLP(folder, described(folder), taps_at(folder))


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_do_what_their_modules_do(checkpoints, name):
    """Whichever way a weight is stored: inputs times it, plus the bias, is the module's output."""
    mlp = stored(checkpoints[name])
    modules = {
        "gpt2": ["c_fc", "c_proj"],
        "gpt_neo": ["c_fc", "c_proj"],
        "gpt_neox": ["dense_h_to_4h", "dense_4h_to_h"],
        "gpt_neox_sequential": ["dense_h_to_4h", "dense_4h_to_h"],
    }.get(name, ["gate_proj", "up_proj", "down_proj"])
    assert mlp.gated == (len(modules) == 3)
    assert mlp.activation == ("SiLU" if mlp.gated and "gemma" not in name else "GELU")
    model = AutoModelForCausalLM.from_pretrained(checkpoints[name])
    assert mlp.n_layers == len(blocks(model))
    for layer, block in enumerate(blocks(model)):
        for projection, name_ in zip(mlp.projections, modules, strict=True):
            module = getattr(block.mlp, name_)
            values = mlp.weight(projection, layer)
            module.double()  # sums of float32 would differ by their order
            x = torch.randn(3, len(values), dtype=torch.float64)
            bias = mlp.bias(projection, layer)
            assert (bias is None) == (module.bias is None)
            found = x.numpy() @ values + (0 if bias is None else bias)
            np.testing.assert_allclose(found, module(x).detach(), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "pre", "post"),
    [
        ("gpt2", "output of c_fc, before GELU", "input of c_proj, after GELU"),
        ("gpt_neox", "output of dense_h_to_4h, before GELU", "input of dense_4h_to_h, after GELU"),
        ("llama", "output of gate_proj, before SiLU", "input of down_proj, SiLU(gate) × up"),
        ("gemma2", "output of gate_proj, before GELU", "input of down_proj, GELU(gate) × up"),
    ],
)
def test_what_pre_and_post_are_is_said_of_the_model_at_hand(checkpoints, name, pre, post):
    mlp = stored(checkpoints[name])

    def definition(site):
        return site_definition(xr.Dataset(attrs={"site": site} | mlp.attributes(site)))

    assert definition("pre") == f"pre = {pre}"
    assert definition("post") == f"post = {post}"
    assert definition("resid_mid") == "resid_mid"
    up = "pre_linear = output of up_proj, which SiLU(gate) is multiplied with"
    assert (definition("pre_linear") == up) == (name == "llama")


@pytest.mark.parametrize(("name", "width"), [("gpt2", "n_inner"), ("llama", "intermediate_size")])
def test_square_weights_are_read_the_architectures_way(tmp_path, name, width):
    folder = build(tmp_path / "square", name, **{width: 24})
    mlp = stored(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    first = blocks(model)[1].mlp.c_fc if name == "gpt2" else blocks(model)[1].mlp.gate_proj
    expected = first.weight if name == "gpt2" else first.weight.T
    np.testing.assert_array_equal(mlp.weight(mlp.projections[0], 1), expected.detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_short_floats_are_read_exactly(tmp_path, name, dtype):
    folder = build(tmp_path / "short", name, dtype)
    mlp = stored(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    last = blocks(model)[2].mlp.c_proj if name == "gpt2" else blocks(model)[2].mlp.down_proj
    expected = (last.weight if name == "gpt2" else last.weight.T).detach().float()
    found = mlp.weight("W2", 2)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_a_checkpoint_without_the_models_prefix(tmp_path):
    """As the hub has GPT-2."""
    folder = build(tmp_path / "plain", "gpt2")
    expected = stored(folder).weight("W1", 3).copy()
    rename(folder, lambda key: key.removeprefix("transformer."))
    np.testing.assert_array_equal(stored(folder).weight("W1", 3), expected)


def rename(folder, change, values=lambda tensor: tensor):
    """Write a checkpoint's tensors anew, under changed names; None leaves one out."""
    file = folder / "model.safetensors"
    tensors = {change(key): values(tensor) for key, tensor in load_file(file).items()}
    save_file({key: t for key, t in tensors.items() if key}, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "values", "message"),
    [
        (lambda k: None if "2.mlp.c_fc" in k else k, lambda t: t, "no mlp.c_fc.weight"),
        (lambda k: k, lambda t: t.to(torch.int8), "dtype I8"),
        (lambda k: k, lambda t: t[..., :-1].contiguous(), r"shape \(24, 95\) where \(24, 96\)"),
    ],
)
def test_weights_that_cannot_be_read_are_an_error(tmp_path, change, values, message):
    folder = build(tmp_path / "broken", "gpt2")
    manifest, taps = described(folder), taps_at(folder)
    rename(folder, change, values)
    with pytest.raises(MicrotomeError, match=message):
        StoredMLP(folder, manifest, taps).weight("W1", 2)


def test_an_unknown_architecture_is_an_error(tmp_path):
    folder = build(tmp_path / "odd", "gpt2")
    manifest = described(folder) | {"architecture": "mamba"}
    with pytest.raises(MicrotomeError, match="'mamba' model is not of one piece"):
        StoredMLP(folder, manifest, {})


def test_weights_are_read_without_torch(tmp_path):
    folder = build(tmp_path / "checkpoint", "gpt2")
    manifest = described(folder)
    code = (
        "import sys; from microtome.statistics.similarity import weight_product; "
        "from microtome.models.stored import StoredMLP; "
        "from microtome.models.taps import from_plain; "
        f"taps = from_plain({to_plain(taps_at(folder))!r}); "
        f"weight_product(StoredMLP({str(folder)!r}, {manifest!r}, taps), 1); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
