"""The studies on an encoder, the real MiniLM, against full forwards hooked by hand."""

import inspect
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import describe
from scipy import stats
from studied import layer_files, product, statistics, study
from transformers import AutoModel, AutoTokenizer

from microtome.figures.labels import site_definition
from microtome.figures.style import save, style, token_texts
from microtome.options import layer_number
from microtome.store.datasets import write_dataset
from microtome.store.tables import write_table
from microtome.texts.stimuli import read_set
from microtome.texts.tokens import token_table

STIMULI = Path(__file__).parents[2] / "stimuli"
#: The stimulus sets of each study that can run on an encoder, and the sites that it reads.
STUDIES = {
    "attention_norms": (["rock_music"], ["attn_out"]),
    "category_selectivity": (["categories"], ["q", "k", "v"]),
    "grammar_tuning": (["nouns_and_verbs", "randomness"], ["pre"]),
    "mlp_distributions": (["strawberry"], ["ln2_out", "pre", "post", "mlp_out"]),
}
N_LAYERS = 6


@pytest.fixture(scope="module")
def model(minilm):
    return AutoModel.from_pretrained(minilm, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def full(minilm, model):
    """Every text of a set in a forward of its own: {(layer, site): array (token, width)} each."""
    tokenizer = AutoTokenizer.from_pretrained(minilm)

    def forwards(stimuli):
        seen, found, handles = {}, [], []

        def keep(key, values):
            seen[key] = values[0].double().numpy()

        for layer, block in enumerate(model.encoder.layer):
            attention = block.attention
            for site, module in (
                ("q", attention.self.query),
                ("k", attention.self.key),
                ("v", attention.self.value),
                ("attn_out", attention.output.dense),
                ("pre", block.intermediate.dense),
                ("mlp_out", block.output.dense),
            ):
                key = layer, site
                hook = module.register_forward_hook(lambda m, args, out, k=key: keep(k, out))
                handles.append(hook)
            for site, module in (("ln2_out", block.intermediate), ("post", block.output.dense)):
                key = layer, site
                hook = module.register_forward_pre_hook(lambda m, args, k=key: keep(k, args[0]))
                handles.append(hook)
        with torch.no_grad():
            for stimulus in read_set(STIMULI / f"{stimuli}.yaml").stimuli:
                model(**tokenizer(stimulus.text, return_tensors="pt"))
                found.append(dict(seen))
        for handle in handles:
            handle.remove()
        return found

    return forwards


@pytest.fixture(scope="module", params=STUDIES)
def made(request, minilm, tmp_path_factory):
    """A study's statistics, made as the workflow makes them."""
    folder, inputs = tmp_path_factory.mktemp(request.param), {}
    sets, sites = STUDIES[request.param]
    for stimuli in sets:
        table = token_table(read_set(STIMULI / f"{stimuli}.yaml").stimuli, minilm)
        place = folder / stimuli
        place.mkdir()
        write_dataset(table, place / "tokens.h5")
        inputs[stimuli] = {
            "layers": layer_files(place, minilm, table, sites, range(N_LAYERS)),
            "tokens": place / "tokens.h5",
            "checkpoint": minilm,
            "manifest": describe(minilm),
        }
    found = statistics(request.param, folder, inputs)
    return SimpleNamespace(study=request.param, **found)


def only(*studies):
    """Run a test for some of the studies."""
    return pytest.mark.parametrize("made", studies, indirect=True)


@only("attention_norms")
def test_norms_are_those_of_a_full_forward(made, full):
    (seen,) = full("rock_music")
    expected = [
        np.log(np.linalg.norm(seen[layer, "attn_out"], axis=1)) for layer in range(N_LAYERS)
    ]
    np.testing.assert_allclose(made.norms["log_norm"], expected, rtol=1e-5)
    assert made.norms["text"].values[[0, 1, -1]].tolist() == ["[CLS]", "hungarian", "[SEP]"]
    assert made.norm_histograms["count"].sum("bin").values.tolist() == [len(expected[0]) - 1] * 6


@only("category_selectivity")
def test_words_are_compared_at_their_own_last_token(made, full):
    seen = full("categories")
    for layer in range(N_LAYERS):
        for site in ("q", "k", "v"):
            vectors = np.array([text[layer, site][-2] for text in seen])  # the last is [SEP]
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            cosines = made.cosine_similarities["cosine"].sel(layer=layer, site=site)
            np.testing.assert_allclose(cosines, vectors @ vectors.T, atol=1e-5)


@only("category_selectivity")
def test_a_token_that_has_read_another_word_is_another_one(made, full):
    seen = full("categories")
    for layer in range(N_LAYERS):
        texts = seen[:1] if layer == 0 else seen  # the first block's q, k, v have read nothing
        q, k = (np.concatenate([text[layer, site][1] for text in texts]) for site in "qk")
        r = made.qkv_correlations["r"].sel(layer=layer, pair="q-k").item()
        assert r == pytest.approx(stats.pearsonr(q, k).statistic, rel=1e-4)
    assert made.qkv_points.attrs["layer"] == 1
    assert made.qkv_points["q-k"].shape == (2, 34 * 384)


@only("grammar_tuning")
def test_a_words_activation_is_the_mean_over_its_own_tokens(made, full):
    seen = full("nouns_and_verbs")
    expected = [text[1, "pre"][1:-1].mean(axis=0) for text in seen]  # without [CLS] and [SEP]
    np.testing.assert_allclose(made.word_activations["activation"], expected, rtol=1e-4, atol=1e-5)
    definition = "pre = output of intermediate.dense, before GELU"  # there is another `dense`
    assert site_definition(made.word_activations) == definition
    assert made.t_tests["n_split"].sum() == sum(len(text[1, "pre"]) > 3 for text in seen)
    (text,) = full("randomness")
    for category in ("noun", "verb"):
        tuned = made.text_tuning.sel(category=category)
        expected = text[1, "pre"][:, tuned["neuron"].item()]
        np.testing.assert_allclose(tuned["activation"], expected, rtol=1e-4, atol=1e-5)


@only("mlp_distributions")
def test_stages_and_weights_of_an_mlp_without_gate(made, full, model):
    (seen,) = full("strawberry")
    block = model.encoder.layer[1]
    for site in STUDIES["mlp_distributions"][1]:
        values = torch.from_numpy(seen[1, site])
        edges = torch.linspace(-3, 3, 201, dtype=torch.float64)
        density = torch.histogram(values.flatten(), edges, density=True).hist
        found = made.activation_histograms["density"].sel(site=site)
        np.testing.assert_allclose(found, density, atol=0.02 * density.max())
    assert made.weight_counts["count"].values.tolist() == [
        parameter.numel()
        for layer in (block.intermediate.dense, block.output.dense)
        for parameter in (layer.weight, layer.bias)
    ]
    product = (block.intermediate.dense.weight.T @ block.output.dense.weight.T).detach() ** 2
    np.testing.assert_allclose(made.weight_product["squared"], product, rtol=1e-3, atol=1e-5)
    assert made.tsne.attrs["layer"] == 2


def test_every_figure_and_table_can_be_made(made, tmp_path):
    described = study(made.study)
    for kind in ("figures", "tables"):
        for name, entry in described.get(kind, {}).items():
            make = product(made.study, kind, entry.pop("use", name))
            if "layer" in entry:
                entry["layer"] = layer_number(entry["layer"], N_LAYERS)
            read = [
                getattr(made, parameter.name)
                for parameter in inspect.signature(make).parameters.values()
                if parameter.kind is not parameter.KEYWORD_ONLY
            ]
            if kind == "tables":
                write_table(make(*read), tmp_path / f"{name}.csv", tmp_path / f"{name}.txt")
            else:
                with style("light", token_texts(read)):
                    drawn = make(*read, **entry)
                    save(drawn, tmp_path / f"{name}.svg", tmp_path / f"{name}.png", dpi=30)
    n_products = sum(len(described.get(kind, {})) for kind in ("figures", "tables"))
    assert len(list(tmp_path.iterdir())) >= n_products
