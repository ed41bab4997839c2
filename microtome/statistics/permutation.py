"""Tests of selectivity and RSA that do not take pairs of words as independent.

Pairs that share a word are dependent, so the p-values of the t-test and of the correlation are too
small. Words, not pairs, are exchangeable: permuting them keeps that dependence.
Source: N. Mantel, "The detection of disease clustering and a generalized regression approach",
Cancer Research 27 (1967).
"""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import xarray as xr

from microtome.statistics.correlation import site_pairs
from microtome.statistics.distributions import is_constant
from microtome.statistics.selectivity import SCALES

#: The most numbers that one array of a test holds: permutations and layers are taken in parts.
MOST_NUMBERS = 1 << 23


def selectivity_test(cosines: xr.Dataset, n_permutations: int, seed: int) -> xr.Dataset:
    """Test selectivity by giving the category labels to other words.

    Args:
        cosines: `cosine`, (…, `site`, `word`, `other`), with `category` along `word`.
        n_permutations: number of random permutations.
        seed: seed of the permutations.

    Returns:
        `p`, (`scale`, …, `site`): the share of permutations, the true labels counted in, whose
        t is as far from 0 as the true one or farther; NaN where the true t is undefined.
    """
    names = cosines["category"].values.astype(str)
    category = np.unique(names, return_inverse=True)[1].astype(np.int32)
    matrices, dims = cosines["cosine"].values, cosines["cosine"].dims[:-2]
    upper = np.triu_indices(len(category), 1)
    series = matrices.reshape(-1, *matrices.shape[-2:])
    p = np.empty((len(SCALES), len(series)))
    for part in _parts(len(series), len(upper[0])):
        values = [transform(series[part][:, *upper]) for transform in SCALES.values()]
        found = _label_test(np.concatenate(values), category, upper, n_permutations, seed)
        p[:, part] = found.reshape(len(SCALES), -1)
    return xr.Dataset(
        {"p": (("scale", *dims), p.reshape(len(SCALES), *matrices.shape[:-2]))},
        {"scale": list(SCALES), **{dim: cosines[dim] for dim in dims}},
    )


def mantel_test(cosines: xr.Dataset, n_permutations: int, seed: int) -> xr.Dataset:
    """Test RSA by permuting rows and columns of one similarity matrix together.

    Args:
        cosines: `cosine`, (`layer`, `site`, `word`, `other`).
        n_permutations: number of random permutations.
        seed: seed of the permutations.

    Returns:
        `p`, (`layer`, `pair`): the share of permutations, the identity counted in, whose r is
        as far from 0 as the true one or farther; NaN where the true r is undefined.

    Raises:
        MicrotomeError: fewer than two sites.
    """
    pairs = site_pairs(cosines["site"].values.astype(str))
    matrices, n_words = cosines["cosine"].values, cosines.sizes["word"]
    p = np.empty((len(matrices), len(pairs)))
    for part in _parts(len(matrices), len(pairs) * n_words**2):
        p[part] = _matrix_test(matrices[part], n_permutations, seed)
    return xr.Dataset({"p": (("layer", "pair"), p)}, {"layer": cosines["layer"], "pair": pairs})


def _label_test(
    values: np.ndarray,
    category: np.ndarray,
    upper: tuple[np.ndarray, np.ndarray],
    n_permutations: int,
    seed: int,
) -> np.ndarray:
    """The p-values of `selectivity_test`.

    Args:
        values: similarities, (series, pair).
        category: a number for each word's category, (word,).
        upper: the first and the second word of each pair.
        n_permutations: number of random permutations.
        seed: seed of the permutations.

    Returns:
        (series,).
    """
    same = category[upper[0]] == category[upper[1]]
    undefined = is_constant(values[:, same]) & is_constant(values[:, ~same])
    true: np.ndarray | None = None
    reached: np.ndarray | int = 0
    orders = _orders(len(category), n_permutations, seed)
    while some := list(islice(orders, max(1, MOST_NUMBERS // max(len(same), 1)))):
        labels = category[np.stack(some)]
        within = (labels[:, upper[0]] == labels[:, upper[1]]).astype(float)
        t = np.abs(_pooled_t(within, values))
        true = t[0] if true is None else true
        reached = reached + _reaches(t, true).sum(axis=0)
    assert true is not None  # there is one order at least
    return _share(reached, n_permutations, undefined | np.isnan(true))


def _matrix_test(matrices: np.ndarray, n_permutations: int, seed: int) -> np.ndarray:
    """The p-values of `mantel_test`.

    Args:
        matrices: similarities, (layer, site, word, word).
        n_permutations: number of random permutations.
        seed: seed of the permutations.

    Returns:
        (layer, pair).
    """
    n_words = matrices.shape[-1]
    upper = np.triu_indices(n_words, 1)
    values = matrices[..., *upper]
    mean, spread = values.mean(axis=-1), values.std(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = (matrices - mean[..., None, None]) / spread[..., None, None]
    first, second = np.triu_indices(matrices.shape[1], 1)
    fixed, moved = scores[:, first][..., *upper], scores[:, second]
    true: np.ndarray | None = None
    reached: np.ndarray | int = 0
    for order in _orders(n_words, n_permutations, seed):
        moved_values = moved[..., order[upper[0]], order[upper[1]]]
        r = np.abs(np.einsum("lps,lps->lp", fixed, moved_values) / len(upper[0]))
        true = r if true is None else true
        reached = reached + _reaches(r, true)
    assert true is not None  # there is one order at least
    constant = is_constant(values)
    undefined = constant[:, first] | constant[:, second] | np.isnan(true)
    return _share(reached, n_permutations, undefined)


def _parts(n: int, size: int) -> Iterator[slice]:
    """Cut n things of some size into parts of up to `MOST_NUMBERS`, or of one thing."""
    step = max(1, MOST_NUMBERS // max(size, 1))
    for start in range(0, n, step):
        yield slice(start, start + step)


def _orders(n: int, n_permutations: int, seed: int) -> Iterator[np.ndarray]:
    """The identity, then random permutations of n things."""
    random = np.random.default_rng(seed)
    yield np.arange(n)
    for _ in range(n_permutations):
        yield random.permutation(n)


def _pooled_t(within: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Student's two-sample t for many splits at once.

    Args:
        within: which pairs belong to the first sample, 0 or 1, (split, pair).
        values: the similarities, (series, pair).

    Returns:
        (split, series); NaN where a sample has no pair.
    """
    values = values - values.mean(axis=1, keepdims=True)  # for the precision of the squares
    counts = within.sum(axis=1, keepdims=True)
    others = within.shape[1] - counts
    sums, squares = within @ values.T, within @ (values**2).T
    rest, rest_squares = values.sum(axis=1) - sums, (values**2).sum(axis=1) - squares
    with np.errstate(divide="ignore", invalid="ignore"):
        scatter = squares - sums**2 / counts + rest_squares - rest**2 / others
        scatter = np.maximum(scatter, 0)  # rounding may leave less
        variance = scatter / (counts + others - 2) * (1 / counts + 1 / others)
        return (sums / counts - rest / others) / np.sqrt(variance)


def _reaches(statistic: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Whether a statistic is as large as the true one; equal up to rounding counts."""
    return statistic >= true * (1 - 1e-12)


def _share(reached: np.ndarray | int, n_permutations: int, undefined: np.ndarray) -> np.ndarray:
    """The share of the permutations and the true order that reach the true statistic, or NaN."""
    return np.where(undefined, np.nan, reached / (1 + n_permutations))
