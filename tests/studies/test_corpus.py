"""Statistics made in the sweep against those of all values at once."""

import weakref

import numpy as np
import pytest
import torch
from conftest import build
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer
from workflows import Clone

from microtome.statistics.distributions import Histograms
from microtome.statistics.moments import Moments
from microtome.statistics.streamed import streamed
from microtome.store.datasets import read_dataset
from microtome.store.layers import Section

SITES = ("pre", "mlp_out")


def sections():
    """Two layers in three batches of unequal size and scale."""
    random = np.random.default_rng(0)
    for layer in (2, 5):
        row = 0
        for n in (1, 7, 3):
            values = {
                "pre": random.standard_normal((n, 6)).astype(np.float32) ** 3 + layer,
                "mlp_out": random.gamma(n, size=(n, 4)).astype(np.float32),
            }
            yield Section(layer, np.arange(row, row + n), values)
            row += n


def whole(layer, site):
    return np.concatenate([s.values[site].ravel() for s in sections() if s.layer == layer])


def test_moments_are_those_of_all_values():
    found = streamed(Moments(SITES), sections())
    assert dict(found.sizes) == {"layer": 2, "site": 2}
    for layer in (2, 5):
        for site in SITES:
            values, own = whole(layer, site).astype(float), found.sel(layer=layer, site=site)
            assert own["n"] == values.size
            assert own["mean"].item() == pytest.approx(values.mean(), rel=1e-12)
            assert own["sd"].item() == pytest.approx(values.std(), rel=1e-12)
            assert own["skewness"].item() == pytest.approx(stats.skew(values), rel=1e-10)
            expected = stats.kurtosis(values, fisher=False)
            assert own["kurtosis"].item() == pytest.approx(expected, rel=1e-10)
            assert (own["smallest"], own["largest"]) == (values.min(), values.max())


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_histograms_are_those_of_all_values(n_threads):
    found = streamed(Histograms(SITES, 11, 3.0, n_threads), sections())
    for layer in (2, 5):
        for site in SITES:
            values, own = whole(layer, site).astype(float), found.sel(layer=layer, site=site)
            density, edges = np.histogram(values, 10, (-3, 3), density=True)
            np.testing.assert_allclose(own["density"], density, rtol=1e-12)
            np.testing.assert_allclose(own["value"], (edges[1:] + edges[:-1]) / 2, atol=1e-15)
            assert own["beyond"].item() == pytest.approx((abs(values) > 3).mean())


@pytest.mark.parametrize("statistic", [Moments(SITES), Histograms(SITES, 11, 3.0)])
def test_no_section_is_held_while_the_next_is_computed(statistic):
    made: list[weakref.ref] = []

    def counted(section):
        assert not any(earlier() for earlier in made)
        made.append(weakref.ref(section))
        return section

    streamed(statistic, map(counted, sections()))
    assert len(made) == 6


def test_the_workflow_stores_no_activations(tmp_path, gpt2_tokenizer):
    """The example of docs/scaling.md, beside plain forwards of the model."""
    model = build(tmp_path / "tiny", "gpt2", vocab_size=50257, num_hidden_layers=3)
    AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(model)
    clone = Clone(tmp_path / "clone", model)
    sites = {"sites": ["resid_post", "pre"]}
    statistics = {"moments": sites, "histograms": sites | {"n_edges": 21, "limit": 2.0}}
    statistics |= {"patterns": {"n_positions": 3}}
    study = {"models": ["tiny"], "stimuli": "words", "statistics": statistics}
    clone.change("studies", to={"corpus": study})
    clone.run()
    clone.run("statistics")  # no figure reads the histograms
    assert not clone.product("activations").exists()
    for figure in ("moments", "entropies"):
        assert clone.product(f"figures/corpus/tiny/{figure}.png").exists()
    assert clone.planned() == set()
    for key, values in full_forwards(model, clone.product("tokens/tiny/words.h5")).items():
        own, own_histogram = (
            read_dataset(clone.product(f"statistics/corpus/tiny/{name}.h5")).sel(
                dict(zip(("layer", "site"), key, strict=True))
            )
            for name in ("moments", "histograms")
        )
        assert own["n"] == values.size
        assert own["mean"].item() == pytest.approx(values.mean(), rel=1e-5, abs=1e-6)
        assert own["sd"].item() == pytest.approx(values.std(), rel=1e-5)
        density = np.histogram(values.astype(float), 20, (-2, 2), density=True)[0]
        np.testing.assert_allclose(own_histogram["density"], density, rtol=1e-5)
    entropies, patterns = (
        read_dataset(clone.product(f"statistics/corpus/tiny/{name}.h5"))
        for name in ("entropies", "patterns")
    )
    assert patterns["pattern"].shape == (3, 4, 3, 3)
    eager = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager")
    tokens = read_dataset(clone.product("tokens/tiny/words.h5"))
    attentions = [
        np.stack([layer[0].numpy() for layer in attention])  # (layer, head, position, key)
        for attention in attended(eager, tokens)
    ]
    mean = np.mean([attention[:, :, :3, :3] for attention in attentions], axis=0)
    np.testing.assert_allclose(np.nan_to_num(patterns["pattern"]), mean, rtol=0, atol=1e-5)
    second = np.mean([stats.entropy(a[:, :, 1], axis=-1) for a in attentions], axis=0)
    np.testing.assert_allclose(entropies["entropy"].sel(position=1), second, atol=1e-5)


def attended(model, tokens):
    """The patterns of each text in a plain forward."""
    with torch.no_grad():
        for _, text in tokens.groupby("sequence"):
            ids = torch.tensor(text["token_id"].values[None]).long()
            yield model(ids, output_attentions=True).attentions


def full_forwards(model, tokens):
    """The values of `pre` and `resid_post` in a plain forward of each text."""
    seen: dict[tuple[int, str], list[np.ndarray]] = {}
    plain = AutoModelForCausalLM.from_pretrained(model)
    for layer, block in enumerate(plain.transformer.h):
        for site, module in (("pre", block.mlp.c_fc), ("resid_post", block)):
            kept = seen.setdefault((layer, site), [])
            module.register_forward_hook(
                lambda module, args, out, kept=kept: kept.append(
                    (out[0] if isinstance(out, tuple) else out).numpy()
                )
            )
    with torch.no_grad():
        for _, text in read_dataset(tokens).groupby("sequence"):
            plain(torch.from_numpy(text["token_id"].values).long()[None])
    return {key: np.concatenate([v.ravel() for v in kept]) for key, kept in seen.items()}
