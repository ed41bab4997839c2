"""Statistics of the study on grammar tuning; see README.md."""

from typing import Annotated

import xarray as xr

from microtome.models.stored import StoredMLP
from microtome.options import ALL_TOKENS, CATEGORIES, WORDS, Alpha, LabelPair, Layer, Site
from microtome.statistics import selectivity


def word_activations(
    section: Annotated[xr.Dataset, WORDS, CATEGORIES, ALL_TOKENS],
    stored: StoredMLP,
    *,
    site: Site,
    layer: Layer,
) -> xr.Dataset:
    """Activations of words on their own, at one layer: the mean over a word's tokens.

    Returns:
        `activation`, (`word`, `neuron`), float64, with `category` and `n_tokens` of each word;
        attributes `layer`, `site` and those of the MLP.
    """
    found = selectivity.word_activations(section.assign_attrs(layer=layer), site)
    return found.assign_attrs(stored.attributes(site))


def t_tests(word_activations: xr.Dataset, *, difference: LabelPair, alpha: Alpha) -> xr.Dataset:
    """Two categories of words compared at every neuron.

    Returns:
        `t` and `p`, (`test`, `neuron`); `significant`, (`test`, `correction`, `neuron`), 0 or 1;
        `mean`, (`category`, `neuron`).
    """
    return selectivity.t_tests(word_activations, difference, alpha)


def text_tuning(
    section: Annotated[xr.Dataset, ALL_TOKENS], t_tests: xr.Dataset, *, site: Site, layer: Layer
) -> xr.Dataset:
    """The most tuned neuron of each category on another text.

    Returns:
        `activation` and `scaled` (0 to 1), (`category`, `token`); `neuron` and its `t`,
        (`category`,).
    """
    return selectivity.text_tuning(section.assign_attrs(layer=layer), t_tests, site)
