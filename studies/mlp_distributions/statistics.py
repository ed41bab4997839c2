"""Statistics of the study on MLP distributions; see README.md."""

from typing import Annotated

import xarray as xr

from microtome.models.stored import StoredMLP
from microtome.options import (
    POSITIONS,
    Count,
    Edges,
    FirstPosition,
    Layer,
    NotNegative,
    Positive,
    Seed,
    SitePair,
    Sites,
)
from microtome.statistics import dimensionality, distributions, similarity
from microtome.statistics.correlation import correlations, paired_values
from microtome.statistics.positions import from_position


def gelu(*, n: Count, limit: Positive) -> xr.Dataset:
    """What GELU does to evenly spaced values; of no model.

    Returns:
        `raw`, `gelu` of it and `squared_difference` of the two, (`sample`,).
    """
    return distributions.gelu_demonstration(n, limit)


def linear_separation(*, n: Count, noise: NotNegative, seed: Seed) -> xr.Dataset:
    """Two rings that a third dimension makes linearly separable; of no model.

    Returns:
        `x`, `y` and `radius`, (`ring`, `point`).
    """
    return dimensionality.linear_separation_demonstration(n, noise, seed)


def weight_counts(stored: StoredMLP, *, layer: Layer) -> xr.Dataset:
    """How many weights and biases an MLP has.

    Returns:
        `size` (as in 768 x 3072), `count` and `percent` of all, (`tensor`,); attribute `layer`.
    """
    return distributions.weight_counts(stored, layer)


def weight_product(stored: StoredMLP, *, layer: Layer) -> xr.Dataset:
    """The squared product of an MLP's first and last weight matrix.

    Returns:
        `squared`, (`input`, `output`), d_model × d_model, float32; attributes `layer` and `first`.
    """
    return similarity.weight_product(stored, layer)


def weight_histograms(stored: StoredMLP, *, n_edges: Edges, limit: Positive) -> xr.Dataset:
    """Histograms of the MLP's weight matrices, for every layer.

    Returns:
        `density`, (`layer`, `matrix`, `value`), and the share `beyond` the limits, (`layer`,
        `matrix`).
    """
    return distributions.weight_histograms(stored, n_edges, limit)


def activation_histograms(
    section: xr.Dataset,
    stored: StoredMLP,
    *,
    sites: Sites,
    layer: Layer,
    n_edges: Edges,
    limit: Positive,
) -> xr.Dataset:
    """Histograms of the stages of an MLP over all tokens, at one layer.

    Returns:
        `density`, (`site`, `value`); `n` and the share `beyond` the limits, (`site`,).
    """
    histograms = distributions.site_histograms(section, sites, n_edges, limit)
    return histograms.assign_attrs(stored.attributes(), layer=layer)


def token_histograms(
    section: Annotated[xr.Dataset, POSITIONS],
    stored: StoredMLP,
    *,
    sites: Sites,
    layer: Layer,
    n_edges: Edges,
    limit: Positive,
) -> xr.Dataset:
    """Histograms of the stages of an MLP by token position, at one layer.

    Returns:
        `density`, (`position`, `site`, `value`); `n` and the share `beyond` the limits,
        (`position`, `site`).
    """
    histograms = distributions.token_histograms(section, sites, n_edges, limit)
    return histograms.assign_attrs(stored.attributes(), layer=layer)


def activation_profile(
    section: xr.Dataset,
    stored: StoredMLP,
    *,
    sites: Sites,
    n_edges: Edges,
    limit: Positive,
    first_token: FirstPosition,
) -> xr.Dataset:
    """Histograms of the stages of an MLP, for every layer, without the first tokens of a text.

    Returns:
        `density`, (`site`, `value`) of the one layer; `n` and the share `beyond` the limits,
        (`site`,).
    """
    rest = from_position(section, first_token)
    histograms = distributions.site_histograms(rest, sites, n_edges, limit)
    return histograms.assign_attrs(stored.attributes())


def tsne(
    section: xr.Dataset,
    *,
    sites: SitePair,
    layer: Layer,
    perplexity: Positive,
    seed: Seed,
    first_token: FirstPosition,
) -> xr.Dataset:
    """Tokens before and after an MLP, in two dimensions and value by value, at one layer.

    Returns:
        `embedding`, (`site`, `token`, `component`), in arbitrary units; the pair's values as
        `ln2_out-mlp_out`, (`axis`, `value_…`), and their `r`, (`pair`,).
    """
    rest = from_position(section, first_token)
    embedding = dimensionality.tsne(section, sites, perplexity, seed)
    found = embedding.merge(paired_values(rest, sites)).merge(correlations(rest, sites))
    return found.assign_attrs(layer=layer)
