"""Statistics of the study on category selectivity; see README.md."""

from typing import Annotated

import xarray as xr

from microtome.options import (
    ALL_TOKENS,
    CATEGORIES,
    SEVERAL_SITES,
    WORDS,
    ComparableSites,
    Count,
    Layer,
    Position,
    Seed,
    Sites,
    WordPosition,
)
from microtome.statistics import permutation, similarity
from microtome.statistics import selectivity as of_categories
from microtome.statistics.correlation import correlations, paired_values
from microtome.statistics.positions import at_position, at_word, distinct


def word_pairs(tokens: Annotated[xr.Dataset, WORDS, CATEGORIES]) -> xr.Dataset:
    """Which pairs of words share a category.

    Returns:
        Masks (`word`, `other`) of 0 and 1: `same_category`, `upper_triangle` and its parts
        `within` and `across`.
    """
    return similarity.word_pairs(at_position(tokens, 0))


def qkv_points(
    section: Annotated[xr.Dataset, ALL_TOKENS],
    *,
    sites: ComparableSites,
    layer: Layer,
    token: Position,
) -> xr.Dataset:
    """Activations of each two sites side by side, at one layer and token, and their correlation.

    Returns:
        A variable for each pair, as `q-k`, (`axis`, `value_q-k`), in the model's units, and `r`,
        (`pair`,).
    """
    chosen = distinct(section[list(sites)], token)
    found = paired_values(chosen, sites).merge(correlations(chosen, sites))
    return found.assign_attrs(layer=layer)


def qkv_correlations(
    section: Annotated[xr.Dataset, ALL_TOKENS], *, sites: ComparableSites, token: Position
) -> xr.Dataset:
    """Correlation of each two sites at one token, for every layer.

    Returns:
        `r`, (`pair`,) of the one layer; NaN where all values of a site are equal.
    """
    return correlations(distinct(section[list(sites)], token), sites)


def cosine_similarities(
    section: Annotated[xr.Dataset, WORDS], *, sites: Sites, word_token: WordPosition
) -> xr.Dataset:
    """Cosine similarity of each two words at one of their tokens, for every site and layer.

    Returns:
        `cosine`, (`site`, `word`, `other`) of the one layer, float64, with `category` of each
        word.
    """
    return similarity.cosine_similarities(at_word(section, word_token), sites)


def rsa(cosine_similarities: Annotated[xr.Dataset, SEVERAL_SITES]) -> xr.Dataset:
    """Correlation of the sites' similarity matrices, for every layer.

    Returns:
        `r`, (`layer`, `pair`); NaN where all similarities at a site are equal.
    """
    return similarity.representational_similarity(cosine_similarities)


def rsa_test(
    cosine_similarities: Annotated[xr.Dataset, SEVERAL_SITES], *, n_permutations: Count, seed: Seed
) -> xr.Dataset:
    """Mantel test of RSA, for every pair of sites and layer.

    Returns:
        `p`, (`layer`, `pair`), two-sided.
    """
    return permutation.mantel_test(cosine_similarities, n_permutations, seed)


def similarity_distributions(
    cosine_similarities: Annotated[xr.Dataset, CATEGORIES], *, layer: Layer
) -> xr.Dataset:
    """Histograms of the similarities within and across categories, at one layer.

    Returns:
        `density` over `left_edge`, (`site`, `pairs`, `bin`), padded with NaN; `t`, (`site`,).
    """
    return of_categories.similarity_distributions(cosine_similarities.sel(layer=layer))


def selectivity(cosine_similarities: Annotated[xr.Dataset, CATEGORIES]) -> xr.Dataset:
    """Similarity within categories against similarity across them, for every site and layer.

    Returns:
        `difference` of the means, `t`, `p` and `average`, (`scale`, `layer`, `site`).
    """
    return of_categories.selectivity(cosine_similarities)


def selectivity_test(
    cosine_similarities: Annotated[xr.Dataset, CATEGORIES], *, n_permutations: Count, seed: Seed
) -> xr.Dataset:
    """Permutation test of selectivity, for every scale, site and layer.

    Returns:
        `p`, (`scale`, `layer`, `site`), two-sided.
    """
    return permutation.selectivity_test(cosine_similarities, n_permutations, seed)


def fisher_z(*, n: Count, seed: Seed) -> xr.Dataset:
    """What Fisher's z does to uniformly distributed values; of no model.

    Returns:
        `r` and `z`, (`sample`,); `count` over `left_edge`, (`scale`, `bin`), padded with NaN.
    """
    return similarity.fisher_z_demonstration(n, seed)
