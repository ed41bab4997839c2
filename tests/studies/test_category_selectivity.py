"""The study category_selectivity against full forwards of Hugging Face models, word by word."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import build, in_batches
from scipy import stats
from studied import by_layer, layer_files
from transformers import AutoModelForCausalLM, AutoTokenizer

from microtome.models.fetch import fetch
from microtome.models.sources import Folder
from microtome.statistics.correlation import correlations
from microtome.statistics.positions import at_word, distinct
from microtome.statistics.selectivity import selectivity, similarity_distributions
from microtome.statistics.similarity import cosine_similarities, representational_similarity
from microtome.texts.stimuli import read_set
from microtome.texts.tokens import token_table

STIMULI = read_set(Path(__file__).parents[2] / "stimuli" / "categories.yaml").stimuli
SITES = ["q", "k", "v"]
LAYERS = [0, 2, 3]


def full_forwards(checkpoint):
    """Q, K and V of each text from full forwards, hooked by hand.

    Returns a list over texts of {(layer, site): array (position, width)}.
    """
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    seen = {}

    def keep(layer, site, cut):
        def hook(module, args, output):
            seen[layer, site] = output[..., cut].detach().double().numpy()

        return hook

    blocks = model.model.layers if hasattr(model, "model") else model.transformer.h
    for layer in LAYERS:
        for i, site in enumerate(SITES):
            block, cut = blocks[layer], slice(None)
            if hasattr(block, "self_attn"):
                module = getattr(block.self_attn, f"{site}_proj")
            elif hasattr(block.attn, "attention"):
                module = getattr(block.attn.attention, f"{site}_proj")
            else:
                module, width = block.attn.c_attn, model.config.hidden_size
                cut = slice(i * width, (i + 1) * width)
            module.register_forward_hook(keep(layer, site, cut))
    sequences = [tokenizer.encode(stimulus.text) for stimulus in STIMULI]
    results = {}
    for batch in in_batches(sequences):
        with torch.no_grad():
            model(torch.tensor([sequences[number] for number in batch]))
        for row, number in enumerate(batch):
            results[number] = {key: values[row] for key, values in seen.items()}
    return [results[number] for number in range(len(STIMULI))], model.config


@pytest.fixture(scope="module", params=["gpt2", "gpt_neo", "smollm2"])
def studied(request, tmp_path_factory, gpt2_tokenizer):
    """Layer files made as the workflow makes them, and the same from full forwards."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "smollm2":
        checkpoint = request.getfixturevalue("smollm2")
    else:
        build(folder / "origin", request.param, vocab_size=50257)
        AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(folder / "origin")
        checkpoint = folder / "checkpoint"
        fetch(Folder(folder / "origin"), checkpoint)
    table = token_table(STIMULI, checkpoint)
    paths = layer_files(folder, checkpoint, table, SITES, LAYERS)
    return paths, *full_forwards(checkpoint)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_similarities_rsa_and_selectivity(studied):
    paths, seen, _ = studied
    cosines = by_layer(paths, lambda s: cosine_similarities(at_word(s), SITES))
    rsa, found = representational_similarity(cosines), selectivity(cosines)
    labels = [stimulus.category for stimulus in STIMULI]
    upper = np.triu(np.ones((34, 34), bool), 1)
    same = np.equal.outer(labels, labels)
    for layer in LAYERS:
        expected = {}
        for site in SITES:
            vectors = unit(np.array([text[layer, site][-1] for text in seen]))
            expected[site] = vectors @ vectors.T
            mine = cosines["cosine"].sel(layer=layer, site=site).values
            np.testing.assert_allclose(mine, expected[site], rtol=1e-5)
            for scale, transform in (("cosine", np.array), ("fisher_z", np.arctanh)):
                within = transform(expected[site][upper & same])
                across = transform(expected[site][upper & ~same])
                test = stats.ttest_ind(within, across)
                cell = found.sel(scale=scale, layer=layer, site=site)
                difference = within.mean() - across.mean()
                assert cell["t"].item() == pytest.approx(test.statistic, rel=1e-5)
                assert cell["difference"].item() == pytest.approx(difference, rel=1e-5)
                average = (within.mean() + across.mean()) / 2
                assert cell["average"].item() == pytest.approx(average, rel=1e-5)
        for pair in ("q-k", "q-v", "k-v"):
            a, b = (expected[site][upper] for site in pair.split("-"))
            r = rsa["r"].sel(layer=layer, pair=pair).item()
            assert r == pytest.approx(stats.pearsonr(a, b)[0], rel=1e-5)
        if layer == 2:
            distributions = similarity_distributions(cosines.sel(layer=layer))
            for site in SITES:
                for pairs, mask in (("within", upper & same), ("across", upper & ~same)):
                    density, edges = np.histogram(expected[site][mask], bins="fd", density=True)
                    cell = distributions.sel(site=site, pairs=pairs)
                    bins = np.isfinite(cell["density"].values)
                    mine = cell["left_edge"].values[bins]
                    np.testing.assert_allclose(mine, edges[:-1], rtol=1e-5)
                    np.testing.assert_allclose(cell["density"].values[bins], density, rtol=1e-5)


def test_correlations_of_the_second_token(studied):
    paths, seen, config = studied
    profile = by_layer(paths, lambda s: correlations(distinct(s, 1), SITES))["r"]
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    for layer in LAYERS:
        q, k, v = (
            np.array([text[layer, site][1] for text in seen]).reshape(34, n, -1)
            for site, n in (("q", heads), ("k", kv_heads), ("v", kv_heads))
        )
        each_query = np.arange(heads) // (heads // kv_heads)
        for pair, a, b in (
            ("q-k", q, k[:, each_query]),
            ("q-v", q, v[:, each_query]),
            ("k-v", k, v),
        ):
            expected = np.corrcoef(a.ravel(), b.ravel())[0, 1]  # every prompt's, as the notebook
            r = profile.sel(layer=layer, pair=pair).item()
            assert r == pytest.approx(expected, rel=1e-5, abs=0)
