"""What attention is called with: queries and keys after rotary positions, scores and pattern."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import CONFIGS
from hooked import columns, hooked, load, sites_of, swept, taps_at
from scipy import stats
from test_families import FAMILIES, tiny
from torch import nn
from transformers import AutoModelForCausalLM

import microtome as mt
from microtome.errors import MicrotomeError
from microtome.models.attention import attending, check
from microtome.models.checkpoint import read_config, sizes
from microtome.models.mapped import MappedModel
from microtome.models.taps import Tap
from microtome.sites import ABSENT, ATTENTION_SITES
from microtome.statistics.attention import entropies, running_attention
from microtome.statistics.distributions import running_histograms
from microtome.statistics.moments import running_moments
from microtome.store.datasets import open_layer
from microtome.store.layers import Section, read_section, write_layers
from microtome.sweeps.batches import batched
from microtome.sweeps.reading import reading
from microtome.sweeps.sweep import sweep

#: Texts of unequal length, longer than the tiny models' windows, down to a single token.
LENGTHS = [7, 1, 12, 7, 5]
SEQUENCES = [np.random.default_rng(i).integers(3, 101, length) for i, length in enumerate(LENGTHS)]
LONGEST = max(LENGTHS)
STARTS = np.cumsum([0, *LENGTHS])
#: Grouped keys, windows by mask (SDPA) and in eager mode, softcap, sinks, ALiBi, partial rotary
#: positions, norms of heads, attention code of their own, and attention that looks ahead.
NAMES = ["gpt2", "gpt_neo", "gpt_neox", "llama", "mistral", "qwen3", "gemma2", "gpt_oss", "bloom"]
NAMES += ["mpt", "gptj", "both_ways"]


@pytest.fixture(scope="module")
def models(checkpoints, tmp_path_factory):
    folder = tmp_path_factory.mktemp("attention")
    others = {
        "both_ways": ("bert", FAMILIES["bert"][1] | {"is_decoder": False}),
        "gpt_oss": ("gpt_oss", FAMILIES["gpt_oss"][1] | {"sliding_window": 3}),
    }
    others |= {name: FAMILIES[name] for name in ("bloom", "mpt", "gptj")}
    return checkpoints | {name: tiny(folder / name, *others[name]) for name in others}


def of_texts(array):
    return [array[a:b] for a, b in pairwise(STARTS)]


@pytest.mark.parametrize("name", NAMES)
def test_pattern_is_that_of_eager_attention(models, name):
    arrays, _ = swept(models[name], SEQUENCES, ["pattern"], range(4))
    model = AutoModelForCausalLM.from_pretrained(
        models[name], dtype=torch.float32, attn_implementation="eager"
    ).eval()
    for number, ids in enumerate(SEQUENCES):
        with torch.no_grad():
            layers = model(torch.tensor(ids[None]), output_attentions=True).attentions
        for layer, expected in enumerate(layers):
            pattern = of_texts(arrays[layer, "pattern"])[number].transpose(1, 0, 2)
            assert np.isnan(pattern[:, :, len(ids) :]).all()
            found, expected = pattern[:, :, : len(ids)], expected[0].numpy()
            np.testing.assert_array_equal(np.isnan(found), expected == 0)
            np.testing.assert_allclose(np.nan_to_num(found), expected, rtol=0, atol=1e-5)


def rotary(heads, n_rotated, theta=10000.0):
    """Rotate the first numbers of each head, (position, head, d_head), half against half."""
    angles = np.arange(len(heads))[:, None] * theta ** (-np.arange(0, n_rotated, 2) / n_rotated)
    first, second = np.split(heads[..., :n_rotated], 2, axis=-1)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    turned = [first * cos - second * sin, second * cos + first * sin]
    return np.concatenate([*turned, heads[..., n_rotated:]], axis=-1)


def normed(heads, norm):
    scale = norm.weight.detach().numpy()
    return heads / np.sqrt(np.mean(heads**2, -1, keepdims=True) + norm.variance_epsilon) * scale


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo", "llama", "gpt_neox", "qwen3"])
def test_queries_and_keys_are_rotated_by_hand(models, name):
    sites = ["q", "k", "q_rot", "k_rot"]
    arrays, _ = swept(models[name], SEQUENCES, sites, [0, 3])
    blocks = load(models[name])
    for layer in (0, 3):
        for site in ("q", "k"):
            for own, raw in zip(
                of_texts(arrays[layer, f"{site}_rot"]), of_texts(arrays[layer, site]), strict=True
            ):
                match name:
                    case "llama":
                        raw = rotary(raw, raw.shape[-1])
                    case "gpt_neox":  # a quarter of each head of 6, so 1.5 numbers: none
                        raw = rotary(raw, blocks.gpt_neox.rotary_emb.inv_freq.numel() * 2)
                    case "qwen3":
                        attention = blocks.model.layers[layer].self_attn
                        raw = normed(raw, getattr(attention, f"{site}_norm"))
                        raw = rotary(raw, raw.shape[-1])
                np.testing.assert_allclose(own, raw, rtol=1e-5, atol=1e-5)


def scaling(name, config):
    match name:
        case "gpt_neo":
            return 1.0
        case "gemma2":
            return config.query_pre_attn_scalar**-0.5
    return sizes(config)["d_head"] ** -0.5


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo", "llama", "gemma2", "gpt_oss", "bloom", "mpt"])
def test_scores_are_query_times_key_and_pattern_their_softmax(models, name):
    arrays, _ = swept(models[name], SEQUENCES, ATTENTION_SITES, [1])
    config = read_config(models[name])
    model = load(models[name])
    q, k, scores, pattern = (of_texts(arrays[1, site]) for site in ATTENTION_SITES)
    for number, length in enumerate(LENGTHS):
        keys = np.repeat(k[number], q[number].shape[1] // k[number].shape[1], axis=1)
        expected = np.einsum("qhd,khd->qhk", q[number], keys) * scaling(name, config)
        if name == "gemma2":
            cap = config.attn_logit_softcapping
            expected = cap * np.tanh(expected / cap)
        if name in ("bloom", "mpt"):  # slopes of four heads
            slopes = np.array([1 / 4, 1 / 16, 1 / 64, 1 / 256])
            distance = np.arange(length) - (length - 1 if name == "mpt" else 0)
            expected += slopes[:, None] * distance
        own = scores[number][..., :length]
        reached = ~np.isnan(own)
        window = 3 if name in ("gpt_neo",) else length
        near = np.tri(length, dtype=bool) & ~np.tri(length, k=-window, dtype=bool)
        np.testing.assert_array_equal(reached, np.broadcast_to(near[:, None], own.shape))
        np.testing.assert_allclose(own[reached], expected[reached], rtol=1e-5, atol=1e-5)
        powers = np.exp(np.where(reached, expected, -np.inf))
        total = powers.sum(-1, keepdims=True)
        if name == "gpt_oss":
            total += np.exp(model.model.layers[1].self_attn.sinks.detach().numpy())[:, None]
        shares = np.nan_to_num(pattern[number][..., :length])
        np.testing.assert_allclose(shares, powers / total, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_other_sites_keep_their_bits(models, name):
    """Texts of one length that begin alike, with all sites of attention read beside."""
    ids = np.random.default_rng(0).integers(3, 101, (6, 9))
    ids[:, :6] = ids[0, :6]
    arrays, _ = swept(models[name], list(ids), [*sites_of(name), *ATTENTION_SITES], range(4))
    plain = load(models[name])
    plain.config.use_cache = False  # a cache lays keys out in another way, which decides last bits
    for (layer, site), expected in hooked(plain, name, ids).items():
        if layer is not None:
            own = arrays[layer, site].reshape(expected.shape)
            np.testing.assert_array_equal(own, expected, err_msg=f"{layer} {site}")


def test_smollm2(smollm2):
    """Patterns of the real model against its eager attention; its heads share keys by three."""
    texts = ["The cat sat on the mat", "Once upon a time, a fox"]
    model = mt.model(smollm2)
    found = mt.sweep(model, texts, ["pattern", "k_rot"], [0, 17])
    assert found["pattern"].dims == ("layer", "token", "n_heads", "key")
    assert found["pattern"].attrs["comment"] == ABSENT
    assert found.sizes["key"] == max(np.bincount(found["sequence"]))
    assert found["k_rot"].shape[2:] == (3, 64)
    plain = AutoModelForCausalLM.from_pretrained(
        smollm2, dtype=torch.float32, attn_implementation="eager"
    )
    for number in range(2):
        text = found.sel(token=found["sequence"] == number)
        with torch.no_grad():
            ids = torch.tensor(text["token_id"].values[None]).long()
            attentions = plain(ids, output_attentions=True).attentions
        for layer in (0, 17):
            expected = attentions[layer][0].numpy()
            own = text["pattern"].sel(layer=layer).transpose("n_heads", "token", "key").values
            own = np.nan_to_num(own)[..., : expected.shape[-1]]
            np.testing.assert_allclose(own, expected, rtol=0, atol=1e-5)
