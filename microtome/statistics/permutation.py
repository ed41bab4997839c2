"""Tests of selectivity and RSA that do not take pairs of words as independent.

Pairs that share a word are dependent, so the t-test and the correlation's own p-value are too
sure of themselves. Words, not pairs, are exchangeable: permuting them keeps that dependence.
Source: N. Mantel, "The detection of disease clustering and a generalized regression approach",
Cancer Research 27 (1967).
"""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from microtome.statistics.correlation import site_pairs
from microtome.statistics.selectivity import SCALES


def selectivity_test(cosines: xr.Dataset, n_permutations: int, seed: int) -> xr.Dataset:
    """Test selectivity by giving the category labels to other words.

    Args:
        cosines: `cosine`, (…, `site`, `word`, `other`), with `category` along `word`.
        n_permutations: how many random permutations.
        seed: of the permutations.

    Returns:
        `p`, (`scale`, …, `site`): the share of permutations, the true labels counted in, whose
        t is as far from 0 as the true one or farther.
    """
    category = cosines["category"].values.astype(str)
    upper = np.triu_indices(len(category), 1)
    labels = [
        category,
        *(category[order] for order in _orders(len(category), n_permutations, seed)),
    ]
    within = np.stack([label[upper[0]] == label[upper[1]] for label in labels]).astype(float)
    dims = cosines["cosine"].dims[:-2]
    p = []
    for transform in SCALES.values():
        values = transform(cosines["cosine"].values[..., *upper])
        t = np.abs(_pooled_t(within, values.reshape(-1, values.shape[-1])))
        p.append(_share(t).reshape(values.shape[:-1]))
    return xr.Dataset(
        {"p": (("scale", *dims), np.stack(p))},
        {"scale": list(SCALES), **{dim: cosines[dim] for dim in dims}},
    )


def mantel_test(cosines: xr.Dataset, n_permutations: int, seed: int) -> xr.Dataset:
    """Test RSA by permuting rows and columns of one similarity matrix together.

    Args:
        cosines: `cosine`, (`layer`, `site`, `word`, `other`).
        n_permutations: how many random permutations.
        seed: of the permutations.

    Returns:
        `p`, (`layer`, `pair`): the share of permutations, the identity counted in, whose r is
        as far from 0 as the true one or farther.
    """
    matrices = cosines["cosine"].values
    n_words = matrices.shape[-1]
    upper = np.triu_indices(n_words, 1)
    mean = matrices[..., *upper].mean(axis=-1)[..., None, None]
    spread = matrices[..., *upper].std(axis=-1)[..., None, None]
    scores = (matrices - mean) / spread
    first, second = np.triu_indices(matrices.shape[1], 1)
    fixed = scores[:, first][..., *upper]
    moved = scores[:, second]
    orders = [np.arange(n_words), *_orders(n_words, n_permutations, seed)]
    r = [
        np.einsum("lps,lps->lp", fixed, moved[..., order[upper[0]], order[upper[1]]])
        for order in orders
    ]
    p = _share(np.abs(np.stack(r) / len(upper[0])).reshape(len(orders), -1))
    sites = list(cosines["site"].values.astype(str))
    return xr.Dataset(
        {"p": (("layer", "pair"), p.reshape(len(matrices), -1))},
        {"layer": cosines["layer"], "pair": site_pairs(sites)},
    )


def _orders(n: int, n_permutations: int, seed: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(seed)
    for _ in range(n_permutations):
        yield random.permutation(n)


def _pooled_t(within: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Student's two-sample t of many splits at once.

    Args:
        within: which pairs belong to the first sample, 0 or 1, (split, pair).
        values: the similarities, (series, pair).

    Returns:
        (split, series).
    """
    values = values - values.mean(axis=1, keepdims=True)  # for the precision of the squares
    counts = within.sum(axis=1, keepdims=True)
    others = within.shape[1] - counts
    sums, squares = within @ values.T, within @ (values**2).T
    rest, rest_squares = values.sum(axis=1) - sums, (values**2).sum(axis=1) - squares
    scatter = squares - sums**2 / counts + rest_squares - rest**2 / others
    variance = scatter / (counts + others - 2) * (1 / counts + 1 / others)
    return (sums / counts - rest / others) / np.sqrt(variance)


def _share(statistic: np.ndarray) -> np.ndarray:
    """How large a share of the rows reaches the first one; equal up to rounding counts."""
    return (statistic >= statistic[0] * (1 - 1e-12)).mean(axis=0)
