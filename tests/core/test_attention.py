"""What attention is called with: queries and keys after rotary positions, scores and pattern."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import xarray as xr
import zoo
from conftest import CONFIGS
from hooked import columns, hooked, load, sites_of, swept, taps_at
from scipy import stats
from test_sweep import in_parts
from torch import nn
from transformers import AutoModelForCausalLM
from workflows import Clone

import microtome as mt
from microtome.errors import MicrotomeError
from microtome.models.attention import attending, check
from microtome.models.checkpoint import read_config, sizes
from microtome.models.mapped import MappedModel
from microtome.models.taps import Tap
from microtome.sites import ABSENT, ATTENTION_SITES
from microtome.statistics.attention import Entropies, Patterns, entropies
from microtome.statistics.distributions import Histograms
from microtome.statistics.moments import Moments
from microtome.statistics.streamed import streamed
from microtome.store.datasets import open_layer, read_dataset
from microtome.store.layers import Section, write_layers
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
OTHERS = ["gpt_oss", "bloom", "mpt", "gptj", "bert"]
NAMES = ["gpt2", "gpt_neo", "gpt_neox", "llama", "mistral", "qwen3", "gemma2", *OTHERS]


@pytest.fixture(scope="module")
def models(checkpoints, tmp_path_factory):
    folder = tmp_path_factory.mktemp("attention")
    others = {name: zoo.fetched(name, folder / name, num_hidden_layers=4) for name in OTHERS}
    return checkpoints | others


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
                    case "gpt_neox":  # two of a head's six numbers
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


def test_batches_and_rows_make_no_difference(models):
    """Queries of some tokens alone still have all keys of their text."""
    everything, _ = swept(models["llama"], SEQUENCES, ["scores", "pattern"], [1, 3])
    one_by_one, _ = swept(models["llama"], SEQUENCES, ["scores", "pattern"], [1, 3], batch_tokens=1)
    for key, values in everything.items():
        np.testing.assert_allclose(one_by_one[key], values, rtol=1e-5, atol=1e-5)
    rows = [np.where(np.arange(n) == n - 1, text, -1) for text, n in enumerate(LENGTHS)]
    batches = batched(columns(SEQUENCES, rows), 1024)
    taps = taps_at(models["llama"])
    for section in sweep(models["llama"], batches, ["pattern"], [1, 3], taps=taps):
        whole = everything[section.layer, "pattern"][STARTS[1:][section.rows] - 1]
        np.testing.assert_array_equal(section.values["pattern"], whole)


def test_parts_have_the_same_values(models, tmp_path):
    sites, layers = ["resid_pre", "scores", "pattern"], [0, 2, 3]
    whole, halves = (
        in_parts(models["gemma2"], tmp_path, n_blocks, "bfloat16", sites, layers)
        for n_blocks in (4, 2)
    )
    assert whole.keys() == halves.keys()
    for key, values in whole.items():
        np.testing.assert_array_equal(values, halves[key])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_files_say_what_is_absent(models, tmp_path, dtype):
    arrays, _ = swept(models["llama"], SEQUENCES, ["pattern", "q_rot"], [0, 1])
    table = columns(SEQUENCES)
    for layer in (0, 1):
        values = {site: arrays[layer, site] for site in ("pattern", "q_rot")}
        section = Section(layer, np.arange(len(table["sequence"])), values)
        write_layers([section], table, {layer: tmp_path / f"layer-{layer:02d}.h5"}, {}, dtype)
    with open_layer(tmp_path / "layer-01.h5") as found:
        assert found["pattern"].dims == ("token", "n_heads", "key")
        assert found["pattern"].attrs["comment"] == ABSENT
        assert np.isnan(found["pattern"].encoding["_FillValue"])
        assert "comment" not in found["q_rot"].attrs
        np.testing.assert_allclose(found["pattern"], arrays[1, "pattern"], rtol=0.01)
    stacked = mt.open(tmp_path)
    assert stacked["pattern"].dims == ("layer", "token", "n_heads", "key")
    assert stacked["pattern"].attrs["comment"] == ABSENT
    np.testing.assert_allclose(stacked["pattern"][0], arrays[0, "pattern"], rtol=0.01)


@pytest.mark.parametrize("damage", ["infinite", "row"])
def test_only_absent_keys_may_be_nan(models, tmp_path, damage):
    arrays, _ = swept(models["llama"], SEQUENCES, ["pattern"], [0])
    values = arrays[0, "pattern"]
    values[(3, 1, 0) if damage == "infinite" else (3, 1)] = (
        np.inf if damage == "infinite" else np.nan
    )
    table = columns(SEQUENCES)
    section = Section(0, np.arange(len(table["sequence"])), {"pattern": values})
    with pytest.raises(MicrotomeError, match="layer 0, site pattern: NaN or infinite"):
        write_layers([section], table, {0: tmp_path / "layer-00.h5"}, {})


def test_damaged_weights_make_no_absent_keys(models):
    model = load(models["llama"])
    attention = model.model.layers[0].self_attn
    attention.k_proj.weight.data[0, 0] = torch.nan
    calls = []
    with torch.no_grad(), attending(attention, calls.append):
        model(torch.tensor(SEQUENCES[0][None]))
    found = calls[0].scores[0, 0].numpy()
    assert np.isinf(found[np.tri(7, dtype=bool)]).all()


def called(model, attention, ids):
    """What is noted inside of a module, and whether its model returns what it returns else."""
    calls = []
    with torch.no_grad():
        plain = model(ids).logits
        with attending(attention, calls.append):
            noted = model(ids).logits
    assert torch.equal(plain, noted)
    return calls


def test_check_finds_nothing_wrong(models):
    ids = torch.tensor(np.random.default_rng(0).permutation(98)[:14].reshape(2, 7) + 3)
    for name, folder in models.items():
        model = load(folder)
        [path] = {taps_at(folder)["pattern"].path}
        blocks = next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == 4)
        for block in blocks:
            calls = called(model, block.get_submodule(path), ids)
            assert check(calls, sizes(model.config)) == {}, name


def test_check_says_what_is_wrong(models, tmp_path):
    model = load(models["llama"])
    attention = model.model.layers[0].self_attn
    ids = torch.tensor(np.stack([SEQUENCES[0], SEQUENCES[3]]))
    calls = called(model, attention, ids)
    known = sizes(model.config)
    assert set(check([], known).values()) == {"no softmax of products is seen"}
    assert set(check(calls * 2, known).values()) == {"attention is called 2 times"}
    assert check(calls, known | {"d_head": 7}).keys() == {"q_rot", "k_rot"}
    [call] = calls
    wrong = replace(call, softmax=lambda: (call.scores, call.pattern * 1.001))
    assert check([wrong], known).keys() == {"scores", "pattern"}
    wrong = replace(call, own_code=True, query=call.query.flip(0))
    assert check([wrong], known).keys() == {"q_rot", "k_rot"}
    assert check([replace(call, own_code=True)], known) == {}


def test_a_module_without_attention_is_refused(models):
    model = MappedModel(models["llama"])
    values = {}
    hidden, calls = model.record(torch.tensor(SEQUENCES[0][None]), 1)
    taps = {"pattern": Tap("mlp", "attention")}
    with (
        torch.no_grad(),
        pytest.raises(MicrotomeError, match="site 'pattern': nothing passes 'mlp' of Llama"),
        reading(model.blocks[0], taps, lambda value: value, values, leave=False),
    ):
        model.run_block(0, model.block_weights(0), hidden, calls[0])


def test_entropies_are_scipys():
    shares = np.random.default_rng(0).dirichlet(np.ones(6), (5, 3)).astype(np.float32)
    shares[:, :, 4:] = np.nan
    shares[0, 0, :4] = [1, 0, 0, 0]
    expected = stats.entropy(np.nan_to_num(shares.astype(float)), axis=-1)
    np.testing.assert_allclose(entropies(shares), expected, rtol=1e-12, atol=1e-15)
    assert entropies(np.full((1, 8), 1 / 8)) == pytest.approx(np.log(8))


def sections(model, sites):
    return sweep(model, batched(columns(SEQUENCES), 14), sites, [0, 2], taps=taps_at(model))


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_averages_made_in_the_sweep(models, name):
    arrays, _ = swept(models[name], SEQUENCES, ["pattern", "scores"], [0, 2])
    position = np.concatenate([np.arange(n) for n in LENGTHS])
    sites = ["scores", "pattern"]
    known = columns(SEQUENCES) | {"position": position}
    tokens = xr.Dataset(coords={name: ("token", column) for name, column in known.items()})
    means = streamed(Patterns(sites, tokens, 8), sections(models[name], sites))
    found = streamed(Entropies(tokens), sections(models[name], ["pattern"]))
    assert means["pattern"].dims == ("layer", "n_heads", "position", "key")
    assert means["n"].values.tolist() == [sum(n > place for n in LENGTHS) for place in range(8)]
    assert found["n"].values.tolist() == [sum(n > place for n in LENGTHS) for place in range(12)]
    for layer in (0, 2):
        entropy = stats.entropy(np.nan_to_num(arrays[layer, "pattern"].astype(float)), axis=-1)
        for place in (0, 1, 6, 7, 11):
            here = position == place
            np.testing.assert_allclose(
                found["entropy"].sel(layer=layer, position=place), entropy[here].mean(0), rtol=1e-5
            )
            for site in ("scores", "pattern") if place < 8 else ():
                values = arrays[layer, site][here][..., :8].astype(float)
                seen = ~np.isnan(values)
                with np.errstate(invalid="ignore"):
                    mean = np.where(seen, values, 0).sum(0) / seen.sum(0)
                own = means[site].sel(layer=layer, position=place)
                np.testing.assert_allclose(own, mean, rtol=1e-6)


def test_moments_and_histograms_leave_absent_keys_out(models):
    arrays, _ = swept(models["llama"], SEQUENCES, ["pattern"], [0, 2])
    moments = streamed(Moments(["pattern"]), sections(models["llama"], ["pattern"]))
    counts = streamed(Histograms(["pattern"], 11, 1.0, 2), sections(models["llama"], ["pattern"]))
    for layer in (0, 2):
        values = arrays[layer, "pattern"].astype(float)
        values = values[~np.isnan(values)]
        at = {"layer": layer, "site": "pattern"}
        assert moments["n"].sel(at) == counts["n"].sel(at) == values.size
        assert moments["mean"].sel(at).item() == pytest.approx(values.mean())
        expected = np.histogram(values, 10, (-1, 1), density=True)[0]
        np.testing.assert_allclose(counts["density"].sel(at), expected)


def test_what_has_no_meaning_is_refused(models):
    llama = mt.model(models["llama"])
    with pytest.raises(MicrotomeError, match="tokens: 'pattern' has no mean over tokens"):
        mt.sweep(llama, "x", ["q", "pattern"], tokens="mean")
    asked = {"site": "z", "change": "zero", "read": {"pattern": "last"}}
    for wrong, message in (
        ({"site": "scores"}, "site: scores cannot be changed, it is made inside"),
        ({"site": "router"}, "site: router cannot be changed, only read; take ln2_out"),
        ({}, "read.pattern: an intervention cannot read it, it is made inside"),
    ):
        with pytest.raises(MicrotomeError, match=message):
            mt.intervene(llama, "x", **asked | wrong)


PATTERNS = '''
"""Statistics of stored patterns."""

import xarray as xr

from microtome.options import KeyedSites


def reach(section: xr.Dataset, *, sites: KeyedSites) -> xr.Dataset:
    """How many keys each head reaches from each token."""
    return section.notnull().sum("key").rename({site: f"{site}_reach" for site in sites})
'''


def test_a_study_stores_patterns_of_some_tokens(tmp_path, model):
    clone = Clone(tmp_path, model)
    (tmp_path / "studies" / "patterns").mkdir()
    (tmp_path / "studies" / "patterns" / "statistics.py").write_text(PATTERNS)
    clone.save_study("patterns", {"statistics": {"reach": {"sites": ["pattern"]}}})
    clone.save({"source": "x", "texts": ["One, two, three", "One two"]}, "stimuli/counts.yaml")
    clone.change("studies", to={"patterns": {"models": ["tiny"], "stimuli": "counts"}})
    clone.change("stimuli", "counts", to={"file": "stimuli/counts.yaml", "tokens": [0, -1]})
    clone.run("statistics")
    reach = read_dataset(clone.product("statistics/patterns/tiny/reach.h5"))["pattern_reach"]
    assert reach.isel(n_heads=0, layer=2).values.tolist() == [1, 5, 1, 2]
    with open_layer(clone.product("activations/tiny/counts/layer-02.h5")) as layer:
        assert layer["pattern"].shape == (4, 4, 5)
        assert layer["pattern"].attrs["comment"] == ABSENT
    plan = clone.snakemake("plan", "--quiet", "all").stdout.splitlines()
    [line] = [line.split() for line in plan if "counts" in line]
    # A longest text of 5 tokens, 4 heads, 4 bytes: for 4 tokens in 3 layers.
    assert line[3:8] == ["3", "80", "B", "960", "B"]
