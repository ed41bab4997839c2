"""What captions say of a model, beside datasets of which the answer is plain."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from microtome.workflow.functions import functions
from studies.attention_norms import captions as of_norms
from studies.category_selectivity import captions as of_categories
from studies.grammar_tuning import captions as of_grammar
from studies.head_silencing import captions as of_heads
from studies.mlp_distributions import captions as of_mlps

ROOT = Path(__file__).parents[2]
STUDIES = sorted(file.parent for file in ROOT.glob("studies/*/study.yaml"))


@pytest.mark.parametrize("study", STUDIES, ids=lambda folder: folder.name)
def test_every_figure_has_a_caption_of_its_numbers(study):
    assert functions(study / "captions.py").keys() == functions(study / "figures.py").keys()


def test_selectivity_is_largest_where_it_is():
    t = [[[1.0, 8.0], [3.5, np.nan]], [[0.0, 0.0], [0.0, 0.0]]]
    p = [[[0.2, 0.001], [0.01, np.nan]], [[1.0, 1.0], [1.0, 1.0]]]
    dims = ("scale", "layer", "site")
    selectivity = xr.Dataset(
        {"t": (dims, t), "p": (dims, p)},
        {"scale": ["cosine", "fisher_z"], "layer": [0, 4], "site": ["q", "v"]},
    )
    assert of_categories.selectivity_profile(selectivity, scale="cosine") == (
        "t is largest in layer 4 (3.5) for Q and in layer 0 (8.0) for V; p < .05 at 2 of 4 layers "
        "and sites."
    )
    undefined = selectivity.where(selectivity["site"] == "q")
    found = of_categories.selectivity_profile(undefined, scale="cosine")
    assert "in no place for V" in found


def test_similarities_of_a_word_with_itself_do_not_count():
    cosine = [[[[1.0, 0.2, 0.4], [0.2, 1.0, 0.6], [0.4, 0.6, 1.0]]]]
    similarities = xr.Dataset(
        {"cosine": (("layer", "site", "word", "other"), cosine)}, {"layer": [3], "site": ["q"]}
    )
    assert of_categories.cosine_matrices(similarities, layer=3) == (
        "Layer 3: two words have a similarity of 0.40 at Q, on average."
    )


def test_significant_layers_are_counted_by_term():
    found = of_norms.autoregression(
        xr.Dataset(
            {
                "significant": (("layer", "term"), [[1, 0], [1, 1], [0, 0]]),
                "r_squared": ("layer", [0.25, 0.5, 0.004]),
            },
            {"term": ["t-1", "t-2"]},
        )
    )
    assert found == "Significant in 2 (t−1) and 1 (t−2) of 3 layers; $R^2$ is 0.00 to 0.50."


def test_the_head_that_matters_most_is_found_by_its_own_number():
    target = [[-0.1, -0.2, 0.3], [-0.5, 0.0, 0.1]]
    each = xr.Dataset(
        {
            "target": (("layer", "head"), target),
            "top_token_id": (("layer", "head"), [[7, 7, 8], [9, 7, 7]]),
        },
        {"layer": [2, 5], "head": [0, 1, 2], "token_id": 7, "text": " the"},
    )
    assert of_heads.each_head(each) == (
        "“␣the” loses most without head 0 of layer 5: −0.50. Another token is most likely without "
        "2 of 6 heads."
    )


def test_tuned_neurons_are_counted_by_correction():
    significant = np.zeros((2, 2, 4), int)
    significant[0, 0, 1] = significant[0, 1, :3] = significant[1] = 1
    tests = xr.Dataset(
        {
            "significant": (("test", "correction", "neuron"), significant),
            "t": (("test", "neuron"), [[1.0, -2.0, 3.0, 0.0]] * 2),
        },
        {"test": ["paired", "welch"], "correction": ["bonferroni", "benjamini_hochberg"]},
    )
    assert of_grammar.t_tests(tests) == (
        "1 of 4 neurons are significant by Bonferroni, 3 by Benjamini and Hochberg; t is −2.0 to "
        "3.0."
    )


def test_widths_are_those_of_the_weights():
    weights = np.random.default_rng(0).normal(0, 0.2, 200_000)
    count, edges = np.histogram(weights, 400, (-2, 2))
    histograms = xr.Dataset(
        {"density": (("layer", "matrix", "value"), count[None, None] / 0.01 / len(weights))},
        {"layer": [1], "matrix": ["W1"], "value": (edges[1:] + edges[:-1]) / 2},
    )
    assert of_mlps.weight_histograms(histograms, layer=1) == (
        "Standard deviations in layer 1: W1 0.20."
    )


def test_what_lies_beyond_the_axis_is_said_if_it_can_be_seen():
    profile = xr.Dataset(
        {"beyond": (("layer", "site"), [[0.0, 0.5], [0.0005, 0.25]])},
        {"layer": [0, 9], "site": ["ln2_out", "mlp_out"]},
        {"limit": 3.0, "activation_function": "GELU", "gated": 0},
    )
    assert of_mlps.activation_profile(profile) == (
        "The largest share beyond ±3: Projection 50% in layer 0."
    )
    none = profile.isel(site=[0])
    assert of_mlps.activation_profile(none) == "Less than 0.1% lies beyond ±3."
