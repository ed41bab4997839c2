"""Similarity between stimuli, and between the sites that represent them.

Source: Mike X Cohen, "50 ML projects to understand LLMs", project 38, parts 1, 3, 4 and 7.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from microtome.errors import MicrotomeError
from microtome.statistics.correlation import site_pairs

#: The largest cosine that float32 activations can tell from 1; Fisher's z is finite there.
LARGEST_COSINE = 1 - 2.0**-24


def word_pairs(words: xr.Dataset) -> xr.Dataset:
    """Which pairs of words share a category, each pair once.

    Args:
        words: coordinates `word` and `category` along `sequence`.

    Returns:
        Masks (`word`, `other`) of 0 and 1: `same_category`, `upper_triangle` (above the
        diagonal), and their meets `within` and `across`.
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


def cosine_similarities(section: xr.Dataset, sites: Sequence[str]) -> xr.Dataset:
    """Cosine similarity of each two words at each site, over all its heads together.

    Args:
        section: variables (`sequence`, …) with coordinates `word` and `category`.
        sites: the sites.

    Returns:
        `cosine`, (`site`, `word`, `other`), float64.
    """
    matrices = []
    for site in sites:
        vectors = section[site].values.astype(np.float64).reshape(section.sizes["sequence"], -1)
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        matrices.append(vectors @ vectors.T)
    return xr.Dataset(
        {"cosine": (("site", "word", "other"), np.stack(matrices))},
        {"site": list(sites), **_word_coordinates(section)},
    )


def representational_similarity(cosines: xr.Dataset) -> xr.Dataset:
    """Correlate the sites' similarity matrices: RSA, over each pair of words once.

    Args:
        cosines: `cosine`, (…, `site`, `word`, `other`).

    Returns:
        `r`, (…, `pair`).
    """
    upper = np.triu_indices(cosines.sizes["word"], 1)
    values = cosines["cosine"].values[..., *upper]
    matrix = np.stack([np.corrcoef(layer) for layer in values.reshape(-1, *values.shape[-2:])])
    matrix = matrix.reshape(*values.shape[:-2], *matrix.shape[-2:])
    sites = list(cosines["site"].values.astype(str))
    first, second = np.triu_indices(len(sites), 1)
    leading = cosines["cosine"].dims[:-3]
    return xr.Dataset(
        {"r": ((*leading, "pair"), matrix[..., first, second])},
        {"pair": site_pairs(sites), **{name: cosines[name] for name in leading}},
    )


def fisher_z(r: np.ndarray) -> np.ndarray:
    """Fisher's z of correlations or cosines; those that float32 cannot tell from ±1 are capped."""
    return np.arctanh(np.clip(r, -LARGEST_COSINE, LARGEST_COSINE))


def fisher_z_demonstration(n: int, seed: int) -> xr.Dataset:
    """What Fisher's z does to uniformly distributed values.

    Args:
        n: how many values.
        seed: of the random draw.

    Returns:
        `r` and `z`, (`sample`,); histograms `count` over `left_edge`, (`scale`, `bin`), with
        Freedman-Diaconis bins, padded with NaN.
    """
    r = np.random.default_rng(seed).uniform(-1, 1, n)
    values = {"cosine": r, "fisher_z": fisher_z(r)}
    histograms = [np.histogram(sample, bins="fd") for sample in values.values()]
    return xr.Dataset(
        {
            "r": ("sample", r),
            "z": ("sample", values["fisher_z"]),
            "count": (("scale", "bin"), padded([count for count, _ in histograms])),
            "left_edge": (("scale", "bin"), padded([edges[:-1] for _, edges in histograms])),
        },
        {"scale": list(values)},
    )


def padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of unequal length as one float64 matrix, the shorter ones filled up with NaN."""
    matrix = np.full((len(rows), max(map(len, rows))), np.nan)
    for i, row in enumerate(rows):
        matrix[i, : len(row)] = row
    return matrix


def _word_coordinates(words: xr.Dataset) -> dict[str, tuple[str, np.ndarray]]:
    if "word" not in words.coords:
        raise MicrotomeError(
            "the stimuli have no words; name a stimulus set that has `template:` and `words:`"
        )
    word, category = (words[name].values.astype(object) for name in ("word", "category"))
    return {
        "word": ("word", word),
        "category": ("word", category),
        "other": ("other", word),
    }
