"""The sweep against full forwards of the Hugging Face model, hooked by hand."""

import numpy as np
import pytest
import torch
from conftest import CONFIGS, SIZES, build
from hooked import GATED, columns, hooked, load, sites_of, swept, taps_at
from torch.nn.functional import gelu, silu
from transformers import AutoConfig, AutoModelForCausalLM

from microtome.errors import MicrotomeError
from microtome.models.fetch import fetch
from microtome.models.mapped import MappedModel
from microtome.models.sources import Folder
from microtome.store.layers import read_section, write_layers
from microtome.sweeps.batches import batched
from microtome.sweeps.sweep import sweep

#: Texts of unequal length, down to a single token; three share a length.
LENGTHS = [7, 1, 12, 7, 5, 7, 2]
SEQUENCES = [np.random.default_rng(i).integers(1, 101, length) for i, length in enumerate(LENGTHS)]


def hooked_all(model, name):
    """Every site of every layer for all tokens of `SEQUENCES`, a text at a time."""
    each = [hooked(model, name, ids[None]) for ids in SEQUENCES]
    return {key: np.concatenate([seen[key][0] for seen in each]) for key in each[0]}


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_the_hooked_full_forward_of_the_same_batch(checkpoints, name):
    sites = sites_of(name)
    final = ["ln_final", "logits"]
    arrays, order = swept(checkpoints[name], SEQUENCES, sites, [0, 1, 2, 3], final_sites=final)
    assert list(dict.fromkeys(order)) == [0, 1, 2, 3, None]
    blocks = {(layer, site) for layer in range(4) for site in sites}
    assert set(arrays) == blocks | {(None, site) for site in final}
    model = load(checkpoints[name])
    starts = np.cumsum([0, *LENGTHS])
    for length in sorted(set(LENGTHS)):
        members = [i for i, n in enumerate(LENGTHS) if n == length]
        expected = hooked(model, name, [SEQUENCES[i] for i in members])
        for key, mine in arrays.items():
            for row, i in enumerate(members):
                values = mine[starts[i] : starts[i + 1]].reshape(length, -1)
                np.testing.assert_array_equal(values, expected[key][row], err_msg=str(key))


@pytest.mark.parametrize("name", CONFIGS)
def test_sites_are_what_their_names_say(checkpoints, name):
    """The residual stream adds up, and the MLP's stages follow from each other."""
    a, _ = swept(checkpoints[name], SEQUENCES, sites_of(name), [0, 1, 2, 3])
    model = load(checkpoints[name])
    close = {"rtol": 1e-4, "atol": 1e-4}
    with torch.no_grad():
        states = model(torch.tensor(SEQUENCES[2])[None], output_hidden_states=True).hidden_states
    rows = slice(sum(LENGTHS[:2]), sum(LENGTHS[:3]))
    for layer in range(4):
        np.testing.assert_allclose(a[layer, "resid_pre"][rows], states[layer][0], **close)
        if layer:
            np.testing.assert_array_equal(a[layer, "resid_pre"], a[layer - 1, "resid_post"])
        total = a[layer, "resid_pre"] + a[layer, "attn_out"] + a[layer, "mlp_out"]
        np.testing.assert_allclose(a[layer, "resid_post"], total, **close)
        if (layer, "resid_mid") in a:
            mid = a[layer, "resid_pre"] + a[layer, "attn_out"]
            np.testing.assert_allclose(a[layer, "resid_mid"], mid, **close)
        pre = torch.tensor(a[layer, "pre"])
        if name in GATED:
            act = silu(pre) if not name.startswith("gemma") else gelu(pre, approximate="tanh")
            post = act * torch.tensor(a[layer, "pre_linear"])
        else:
            approximate = "none" if name.startswith("gpt_neox") else "tanh"
            post = gelu(pre, approximate=approximate)
        np.testing.assert_allclose(a[layer, "post"], post, **close)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo", "gpt_neox", "llama", "qwen3", "gemma3"])
def test_does_not_depend_on_batch_tokens_nor_on_the_other_texts(checkpoints, name):
    sites = sites_of(name)
    together, _ = swept(checkpoints[name], SEQUENCES, sites, [0, 3])
    one_by_one, _ = swept(checkpoints[name], SEQUENCES, sites, [0, 3], batch_tokens=1)
    by_two, _ = swept(checkpoints[name], SEQUENCES, sites, [0, 3], batch_tokens=14)
    alone, _ = swept(checkpoints[name], SEQUENCES[3:4], sites, [0, 3])
    rows = slice(sum(LENGTHS[:3]), sum(LENGTHS[:4]))
    for key, values in together.items():
        np.testing.assert_allclose(one_by_one[key], values, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(by_two[key], values, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(alone[key], values[rows], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo", "gpt_neox", "llama", "qwen3", "gemma3"])
def test_any_subset_of_layers_and_sites_has_the_same_values(checkpoints, name):
    everything, _ = swept(checkpoints[name], SEQUENCES, sites_of(name), [0, 1, 2, 3])
    for sites, layers in (
        (["k"], [2]),
        (["v", "q"], [1, 3]),
        (["resid_post"], [0]),
        (["resid_pre"], [2]),
        (["z", "resid_post", "post"], [3, 0]),
    ):
        some, order = swept(checkpoints[name], SEQUENCES, sites, layers)
        assert set(some) == {(layer, site) for layer in layers for site in sites}
        assert set(order) == set(layers)
        for key, values in some.items():
            np.testing.assert_array_equal(values, everything[key])


def test_stops_in_the_deepest_layer_asked_for(checkpoints, monkeypatch):
    """Blocks below the deepest layer are never run, nor is the MLP after the last site there."""
    ran = []
    block = type(load(checkpoints["llama"]).model.layers[0])
    forward = block.forward
    monkeypatch.setattr(
        block, "forward", lambda self, *a, **k: ran.append(self) or forward(self, *a, **k)
    )
    multiplied = []
    mlp = type(load(checkpoints["llama"]).model.layers[0].mlp)
    mlp_forward = mlp.forward
    monkeypatch.setattr(
        mlp, "forward", lambda self, x: multiplied.append(self) or mlp_forward(self, x)
    )
    swept(checkpoints["llama"], SEQUENCES[:1], ["q"], [1])
    assert len({id(module) for module in ran}) == 2
    assert len({id(module) for module in multiplied}) == 1


def test_shapes_follow_the_heads(checkpoints):
    arrays, _ = swept(checkpoints["qwen3"], SEQUENCES, ["q", "k", "v", "z", "post"], [0])
    n_tokens = sum(LENGTHS)
    assert arrays[0, "q"].shape == arrays[0, "z"].shape == (n_tokens, 4, 10)
    assert arrays[0, "k"].shape == arrays[0, "v"].shape == (n_tokens, 2, 10)
    assert arrays[0, "post"].shape == (n_tokens, 40)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_checkpoints_are_computed_in_float32(tmp_path, name, dtype):
    build(tmp_path / "origin", name, dtype)
    fetch(Folder(tmp_path / "origin"), tmp_path / "checkpoint")
    arrays, _ = swept(
        tmp_path / "checkpoint",
        SEQUENCES[2:3],
        sites_of(name),
        [0, 1, 2, 3],
        final_sites=["logits"],
    )
    expected = hooked(load(tmp_path / "checkpoint"), name, SEQUENCES[2:3])
    for key, values in arrays.items():
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values.reshape(LENGTHS[2], -1), expected[key][0])


def test_sharded_checkpoints(tmp_path):
    model = load(build(tmp_path / "origin", "gpt2"))
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    fetch(Folder(tmp_path / "sharded"), tmp_path / "checkpoint")
    arrays, _ = swept(tmp_path / "checkpoint", SEQUENCES[2:3], sites_of("gpt2"), [3])
    expected = hooked(model, "gpt2", SEQUENCES[2:3])
    for key, values in arrays.items():
        np.testing.assert_array_equal(values.reshape(LENGTHS[2], -1), expected[key][0])


def test_smollm2(smollm2):
    sequences = [np.array([504, 1867, 2229, 314, 13247]), np.array([504]), np.array([5, 99, 1000])]
    sites = sites_of("llama")
    arrays, _ = swept(smollm2, sequences, sites, range(30), final_sites=["ln_final", "logits"])
    model = load(smollm2)
    start = 0
    for ids in sequences:
        expected = hooked(model, "llama", [ids])
        for key, values in arrays.items():
            mine = values[start : start + len(ids)].reshape(len(ids), -1)
            np.testing.assert_array_equal(mine, expected[key][0], err_msg=str(key))
        start += len(ids)


@pytest.mark.parametrize(
    ("name", "site", "layer", "message"),
    [
        ("gpt2", "resid_mit", 0, "did you mean 'resid_mid'"),
        ("gpt2", "pre_linear", 0, "a 'gpt2' model has none"),
        ("gpt_neox", "resid_mid", 0, "a 'gpt_neox' model has none"),
        ("gpt2", "q", 4, "layers 0 to 3"),
        ("gpt2", "q", -1, "layers 0 to 3"),
    ],
)
def test_refuses_what_the_model_does_not_have(checkpoints, name, site, layer, message):
    with pytest.raises(MicrotomeError, match=message) as caught:
        swept(checkpoints[name], SEQUENCES, [site], [layer])
    assert "\n" not in str(caught.value)


ROWS = {
    # Every text's last token; its first and last; the mean over all of its tokens.
    "last": [[*[-1] * (n - 1), i] for i, n in enumerate(LENGTHS)],
    "mean": [[i] * n for i, n in enumerate(LENGTHS)],
}


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "qwen3"])
@pytest.mark.parametrize("tokens", ROWS)
def test_only_the_rows_that_are_asked_for_are_kept(checkpoints, name, tokens):
    expected = hooked_all(load(checkpoints[name]), name)
    batches = batched(columns(SEQUENCES, ROWS[tokens]), 14)
    found = {}
    for section in sweep(
        *(checkpoints[name], batches, sites_of(name), [0, 3], ["logits"]),
        taps=taps_at(checkpoints[name]),
    ):
        for site, values in section.values.items():
            assert len(values) == len(section.rows)
            for row, value in zip(section.rows, values, strict=True):
                found[section.layer, site, row] = value
    assert len(found) == (2 * len(sites_of(name)) + 1) * len(LENGTHS)
    ends = np.cumsum(LENGTHS)
    for (layer, site, row), value in found.items():
        text = expected[layer, site][ends[row] - LENGTHS[row] : ends[row]].astype(float)
        wanted = text[-1] if tokens == "last" else text.mean(axis=0)
        np.testing.assert_allclose(value.ravel(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_dtypes_equal_the_hooked_forward_in_that_dtype(checkpoints, name, dtype):
    ids = np.stack([ids for ids in SEQUENCES if len(ids) == 7])
    model = AutoModelForCausalLM.from_pretrained(checkpoints[name], dtype=getattr(torch, dtype))
    expected = hooked(model.eval(), name, ids)
    batches = batched(columns(list(ids)), 1024)
    for section in sweep(
        *(checkpoints[name], batches, sites_of(name), range(4), ["ln_final", "logits"], dtype),
        taps=taps_at(checkpoints[name]),
    ):
        for site, values in section.values.items():
            assert values.dtype == np.float32
            np.testing.assert_array_equal(
                values.ravel(), expected[section.layer, site].ravel(), err_msg=f"{site}"
            )


def test_a_gpu_that_is_not_there_is_said(checkpoints, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    batches = batched(columns(SEQUENCES), 14)
    with pytest.raises(MicrotomeError, match="cuda, but torch finds no GPU here"):
        next(sweep(checkpoints["gpt2"], batches, ["q"], [0], device="cuda", taps={}))


def in_parts(checkpoint, folder, n_blocks, dtype, sites, layers, final_sites=()):
    """The sweep of `SEQUENCES` a few blocks at a time, each part from the file of the one before.

    Returns (layer, site, row of the token table): array.
    """
    table = columns(SEQUENCES)
    arrays, resid_in = {}, None
    for start in range(0, 4, n_blocks):
        stop = start + n_blocks
        last = stop >= 4
        file = folder / f"resid-{stop:02d}.h5"
        sections = sweep(
            *(checkpoint, batched(table, 14), sites),
            [layer for layer in layers if start <= layer < stop],
            *(final_sites if last else (), dtype),
            taps=taps_at(checkpoint),
            resid_in=resid_in,
            stop=None if last else stop,
            resid_out=None
            if last
            else lambda left, to=file, at=stop: write_layers(left, table, {at: to}, {}, dtype),
        )
        for section in sections:
            for site, values in section.values.items():
                for row, value in zip(section.rows, values, strict=True):
                    arrays[section.layer, site, row] = value
        resid_in = None if last else read_section(file)
    return arrays


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sweep_in_parts_has_the_same_values(checkpoints, tmp_path, name, dtype):
    asked = sites_of(name), [0, 1, 2, 3], ["ln_final", "logits"]
    expected = {}
    taps = taps_at(checkpoints[name])
    batches = batched(columns(SEQUENCES), 14)
    for section in sweep(checkpoints[name], batches, *asked, dtype, taps=taps):
        for site, values in section.values.items():
            for row, value in zip(section.rows, values, strict=True):
                expected[section.layer, site, row] = value
    for n_blocks in (1, 2):
        found = in_parts(checkpoints[name], tmp_path, n_blocks, dtype, *asked)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value, err_msg=f"{key}")


def test_a_part_without_wanted_layers_hands_on_as_well(checkpoints, tmp_path):
    expected, _ = swept(checkpoints["llama"], SEQUENCES, ["q", "resid_pre"], [3], batch_tokens=14)
    found = in_parts(checkpoints["llama"], tmp_path, 1, "float32", ["q", "resid_pre"], [3])
    assert found.keys() == {(*key, row) for key in expected for row in range(sum(LENGTHS))}
    for (layer, site, row), value in found.items():
        np.testing.assert_array_equal(value, expected[layer, site][row])
    resid_in = read_section(tmp_path / "resid-03.h5")
    np.testing.assert_array_equal(resid_in.values["resid_pre"], expected[3, "resid_pre"])


def test_a_part_runs_only_its_own_blocks(checkpoints, tmp_path, monkeypatch):
    ran = []
    run_block = MappedModel.run_block

    def noted(self, layer, *arguments):
        ran.append(layer)
        return run_block(self, layer, *arguments)

    monkeypatch.setattr(MappedModel, "run_block", noted)
    in_parts(checkpoints["gpt2"], tmp_path, 2, "float32", ["q"], [3])
    n_batches = len(batched(columns(SEQUENCES), 14))
    assert ran == [layer for layer in range(4) for _ in range(n_batches)]


@pytest.mark.parametrize(
    ("model_type", "options", "dtype"),
    [
        # Its last blocks read keys and values that earlier ones leave in a dictionary.
        (
            "gemma4_text",
            {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2},
            "float32",
        ),
        # It keeps the residual stream in float32, whatever it computes in.
        ("mamba", {"state_size": 4}, "bfloat16"),
    ],
)
def test_blocks_that_hand_on_more_are_refused(tmp_path, model_type, options, dtype):
    sizes = SIZES | {"head_dim": 8, "global_head_dim": 8, "intermediate_size": 40}
    config = AutoConfig.for_model(model_type, **(sizes | {"num_key_value_heads": 2} | options))
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "origin")
    fetch(Folder(tmp_path / "origin"), tmp_path / "checkpoint")
    with pytest.raises(MicrotomeError, match="no job can begin at block 2; take `layers_per_job`"):
        in_parts(tmp_path / "checkpoint", tmp_path, 2, dtype, ["resid_post"], [3])


def test_a_model_that_takes_more_of_its_blocks_is_refused(tmp_path):
    """ZAYA's blocks return the state of their routers too."""
    sizes = SIZES | {"num_key_value_heads": 2, "head_dim": 8}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("zaya", **sizes))
    model.save_pretrained(tmp_path / "origin")
    fetch(Folder(tmp_path / "origin"), tmp_path / "checkpoint")
    batches = batched(columns(SEQUENCES), 14)
    with pytest.raises(MicrotomeError, match="zaya: its blocks are given or return more than a"):
        next(sweep(tmp_path / "checkpoint", batches, ["resid_post"], [3], taps={}))
