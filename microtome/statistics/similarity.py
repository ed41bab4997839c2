"""Similarity: of words, of tokens, of hidden states, and of the sites that represent them.

Sources: Mike X Cohen, "50 ML projects to understand LLMs", project 38, parts 1, 3, 4 and 7, and
project 42, part 1; "LLM breakdown 4/6: Transformer outputs (hidden states)", demo 2.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from microtome.errors import MicrotomeError
from microtome.models.stored import StoredMLP
from microtome.statistics.correlation import correlation_matrix, site_pairs
from microtome.statistics.distributions import freedman_diaconis
from microtome.statistics.positions import require_all_tokens, require_one_text, require_words

#: The largest cosine below 1 that float32 can represent; Fisher's z of it is finite.
LARGEST_COSINE = 1 - 2.0**-24


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Cosine similarity of each two vectors, (…, a, d) to (…, a, a), float64.

    A vector of zeros has none (NaN).
    """
    values = vectors.astype(np.float64)
    with np.errstate(invalid="ignore"):
        values /= np.linalg.norm(values, axis=-1, keepdims=True)
    return values @ values.swapaxes(-1, -2)


def mean_products(vectors: np.ndarray, text: np.ndarray) -> tuple[float, float]:
    """The mean product of two rows of one text, and that of rows of two texts, each pair once.

    The products of unit vectors are cosines. Sums of rows give them without a matrix of all pairs.

    Args:
        vectors: (row, d).
        text: the text of each row, (row,).

    Returns:
        NaN each, where there is no such pair.
    """
    texts, place = np.unique(text, return_inverse=True)
    sums = np.zeros((len(texts), vectors.shape[1]))
    np.add.at(sums, place, vectors)
    inside, rows = (sums**2).sum(), np.bincount(place)
    with np.errstate(invalid="ignore"):
        within = (inside - (vectors**2).sum()) / np.float64((rows * (rows - 1)).sum())
        across = ((sums.sum(axis=0) ** 2).sum() - inside) / np.float64(
            rows.sum() ** 2 - (rows**2).sum()
        )
    return within.item(), across.item()


def word_pairs(words: xr.Dataset) -> xr.Dataset:
    """Mark the pairs of words that share a category, each pair once.

    Args:
        words: coordinates `word` and `category` along `sequence`.

    Returns:
        Masks (`word`, `other`) of 0 and 1: `same_category`; `upper_triangle`, above the diagonal;
        and its parts `within` one category and `across` two.
    """
    coordinates = _word_coordinates(words)
    category = words["category"].values.astype(str)
    same = category[:, None] == category[None, :]
    upper = np.triu(np.ones_like(same), 1)
    masks = {
        "same_category": same,
        "upper_triangle": upper,
        "within": same & upper,
        "across": ~same & upper,
    }
    return xr.Dataset(
        {name: (("word", "other"), mask.astype(np.int8)) for name, mask in masks.items()},
        coordinates,
    )


def cosine_similarities(words: xr.Dataset, sites: Sequence[str]) -> xr.Dataset:
    """Cosine similarity of each two words at each site, over all its heads together.

    Args:
        words: one token of each word, as `microtome.statistics.positions.at_word` gives it:
            variables (`sequence`, …) with coordinates `word` and `category`.
        sites: the sites.

    Returns:
        `cosine`, (`site`, `word`, `other`), float64.
    """
    coordinates = _word_coordinates(words)
    n_words = words.sizes["sequence"]
    matrices = np.empty((len(sites), n_words, n_words))
    for matrix, site in zip(matrices, sites, strict=True):
        matrix[:] = cosines(words[site].values.reshape(n_words, -1))
    return xr.Dataset(
        {"cosine": (("site", "word", "other"), matrices)}, {"site": list(sites), **coordinates}
    )


def representational_similarity(cosines: xr.Dataset) -> xr.Dataset:
    """Correlate the sites' similarity matrices: RSA, over each pair of words once.

    Args:
        cosines: `cosine`, (…, `site`, `word`, `other`).

    Returns:
        `r`, (…, `pair`); NaN where all similarities at a site are equal.

    Raises:
        MicrotomeError: fewer than two sites.
    """
    pairs = site_pairs(cosines["site"].values.astype(str))
    matrices = cosines["cosine"].values
    upper = np.triu_indices(cosines.sizes["word"], 1)
    both = np.triu_indices(cosines.sizes["site"], 1)
    # Layer by layer, for the memory that a copy of the upper triangles takes.
    layers = matrices.reshape(-1, *matrices.shape[-3:])
    r = np.stack([correlation_matrix(layer[:, *upper])[both] for layer in layers])
    leading = cosines["cosine"].dims[:-3]
    return xr.Dataset(
        {"r": ((*leading, "pair"), r.reshape(*matrices.shape[:-3], -1))},
        {"pair": pairs, **{name: cosines[name] for name in leading}},
    )


def fisher_z(r: np.ndarray) -> np.ndarray:
    """Fisher's z of correlations or cosines, which are clipped to ±`LARGEST_COSINE`."""
    return np.arctanh(np.clip(r, -LARGEST_COSINE, LARGEST_COSINE))


def fisher_z_demonstration(n: int, seed: int) -> xr.Dataset:
    """Fisher's z of uniformly distributed values.

    Args:
        n: number of values.
        seed: seed of the random draw.

    Returns:
        `r` and `z`, (`sample`,); histograms `count` over `left_edge`, (`scale`, `bin`), with
        Freedman-Diaconis bins, padded with NaN.
    """
    r = np.random.default_rng(seed).uniform(-1, 1, n)
    values = {"cosine": r, "fisher_z": fisher_z(r)}
    counts, left_edges = freedman_diaconis(values.values())
    return xr.Dataset(
        {
            "r": ("sample", r),
            "z": ("sample", values["fisher_z"]),
            "count": (("scale", "bin"), counts),
            "left_edge": (("scale", "bin"), left_edges),
        },
        {"scale": list(values)},
    )


def layer_similarity(states: xr.DataArray, n_tokens: int) -> xr.Dataset:
    """Cosine similarity of each two hidden states of a token, for some tokens.

    Args:
        states: hidden states of one text (see `microtome.statistics.layers`).
        n_tokens: number of tokens, evenly spaced from the first to the last; all of a shorter
            text.

    Returns:
        `cosine`, (`token`, `hidden`, `other`), float64, with the tokens' coordinates.

    Raises:
        MicrotomeError: more than one text, or tokens of it are missing.
    """
    require_one_text(states)
    require_all_tokens(states, "layer_similarity")
    chosen = states.isel(token=_evenly_spaced(states.sizes["token"], n_tokens))
    matrices = _labelled_cosines(chosen.transpose("token", "hidden", "d_model"))
    return matrices.assign_coords(other=states["hidden"].values).to_dataset(name="cosine")


def token_similarity(states: xr.DataArray, n_layers: int) -> xr.Dataset:
    """Cosine similarity of each two tokens in a hidden state, for some hidden states.

    Args:
        states: hidden states of one text (see `microtome.statistics.layers`).
        n_layers: number of hidden states, evenly spaced from the first to the last; all of a
            smaller model.

    Returns:
        `cosine`, (`hidden`, `token`, `other`), float64, with the tokens' coordinates.

    Raises:
        MicrotomeError: more than one text, or tokens of it are missing.
    """
    require_one_text(states)
    require_all_tokens(states, "token_similarity")
    chosen = states.isel(hidden=_evenly_spaced(states.sizes["hidden"], n_layers))
    return _labelled_cosines(chosen).to_dataset(name="cosine")


def similarity_profile(states: xr.DataArray, first_token: int) -> xr.Dataset:
    """Cosine similarity of each two tokens, each pair once, in every hidden state.

    Args:
        states: hidden states of one text (see `microtome.statistics.layers`).
        first_token: the position of the first token that takes part; 1 leaves out the text's
            first.

    Returns:
        `cosine`, (`hidden`, `pair`), float64, with the positions `first` and `second` of a
        pair's tokens.

    Raises:
        MicrotomeError: more than one text, it leaves no pair, or tokens of it are missing.
    """
    require_one_text(states)
    require_all_tokens(states, "similarity_profile")
    chosen = states.isel(token=slice(first_token, None))
    n_tokens = chosen.sizes["token"]
    if n_tokens < 2:
        raise MicrotomeError(
            f"first_token {first_token}: the text has {states.sizes['token']} tokens, which "
            "leaves no pair; correct the `first_token` option"
        )
    first, second = np.triu_indices(n_tokens, 1)
    position = chosen["position"].values
    return xr.Dataset(
        {"cosine": (("hidden", "pair"), cosines(chosen.values)[:, first, second])},
        {
            "hidden": states["hidden"].values,
            "first": ("pair", position[first]),
            "second": ("pair", position[second]),
        },
    )


def weight_product(mlp: StoredMLP, layer: int) -> xr.Dataset:
    """The squared elements of the product of an MLP's first and last weight matrix.

    Were the matrices inverses of each other, this would be the identity.

    Args:
        mlp: a checkpoint's MLPs; of a gated one, the gate is the first matrix.
        layer: the layer.

    Returns:
        `squared`, (`input`, `output`), d_model × d_model, float32; attributes `layer` and
        `first`, the name of the first matrix.
    """
    first, last = mlp.projections[0], mlp.projections[-1]
    product = mlp.weight(first, layer).astype(np.float64) @ mlp.weight(last, layer)
    squared = (product**2).astype(np.float32)
    return xr.Dataset(
        {"squared": (("input", "output"), squared)}, attrs={"layer": layer, "first": first}
    )


def _evenly_spaced(size: int, n: int) -> np.ndarray:
    """Up to n distinct indices from the first to the last."""
    return np.unique(np.linspace(0, size - 1, n, dtype=int))


def _labelled_cosines(vectors: xr.DataArray) -> xr.DataArray:
    """The cosines of (…, a, `d_model`) as (…, a, `other`), with the coordinates of a."""
    coordinates = {n: c for n, c in vectors.coords.items() if "d_model" not in c.dims}
    return xr.DataArray(cosines(vectors.values), coordinates, (*vectors.dims[:-1], "other"))


def _word_coordinates(words: xr.Dataset) -> dict[str, tuple[str, np.ndarray]]:
    require_words(words)
    word, category = (words[name].values.astype(object) for name in ("word", "category"))
    return {
        "word": ("word", word),
        "category": ("word", category),
        "other": ("other", word),
    }
