"""Correlation: of the activations of two sites, element by element, and of ranks.

Source: Mike X Cohen, "50 ML projects to understand LLMs", project 38, part 2.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from microtome.errors import MicrotomeError
from microtome.statistics.distributions import is_constant


def site_pairs(sites: Sequence[str] | np.ndarray) -> list[str]:
    """Names of the pairs of sites, in their order: `q-k`, `q-v`, `k-v`.

    Raises:
        MicrotomeError: fewer than two sites make no pair.
    """
    if len(sites) < 2:
        raise MicrotomeError(
            f"sites {list(sites)}: pairs want two or more; name another under `sites`"
        )
    return [f"{a}-{b}" for a, b in combinations(sites, 2)]


def paired_values(section: xr.Dataset, sites: Sequence[str]) -> xr.Dataset:
    """Put the activations of each two sites side by side.

    With grouped queries, a query head is paired with the key and value head that serves it,
    so that those stand beside several query heads.

    Args:
        section: variables (`sequence`, …), the sites among them, with one row per text.
        sites: the sites to pair.

    Returns:
        For each pair `a-b` of sites a variable of that name, (`axis`, `value_a-b`), with the
        first site's values on axis 0.

    Raises:
        MicrotomeError: fewer than two sites, or sites whose values cannot be paired.
    """
    pairs = {}
    for pair, both in zip(site_pairs(sites), combinations(sites, 2), strict=True):
        first, second = _equal_heads(*(section[site].values.astype(np.float64) for site in both))
        if first.shape != second.shape:
            shapes = " and ".join(f"{site} {section[site].shape[1:]}" for site in both)
            raise MicrotomeError(
                f"sites {shapes}: values of unequal shape cannot be paired; name sites of one "
                "shape under `sites`"
            )
        pairs[pair] = (("axis", f"value_{pair}"), np.stack([first.ravel(), second.ravel()]))
    return xr.Dataset(pairs)


def correlations(section: xr.Dataset, sites: Sequence[str]) -> xr.Dataset:
    """Pearson's r of each two sites over all texts, heads and dimensions.

    Args:
        section: as in `paired_values`.
        sites: the sites to pair.

    Returns:
        `r`, (`pair`,); NaN where all values of a site are equal.

    Raises:
        MicrotomeError: as in `paired_values`.
    """
    values = paired_values(section, sites)
    pairs = site_pairs(sites)
    r = [correlation_matrix(values[pair].values)[0, 1] for pair in pairs]
    return xr.Dataset({"r": ("pair", r)}, {"pair": pairs})


def correlation_matrix(rows: np.ndarray) -> np.ndarray:
    """Pearson's r of each two rows, (row, value) to (row, row); NaN with a constant row."""
    undefined = is_constant(rows)
    if undefined.all():
        return np.full((len(rows), len(rows)), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        matrix = np.corrcoef(rows)
    matrix[undefined] = matrix[:, undefined] = np.nan
    return matrix


def rank_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation along the last axis, (…, value) to (…,).

    NaN where all values of one of them are equal.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (_standardised(rankdata(values, axis=-1)) for values in (x, y))
        return (first * second).mean(axis=-1)


def _standardised(values: np.ndarray) -> np.ndarray:
    """Values with a mean of 0 and a standard deviation of 1 along the last axis."""
    centred: np.ndarray = values - values.mean(axis=-1, keepdims=True)
    return centred / centred.std(axis=-1, keepdims=True)


def _equal_heads(first: np.ndarray, second: np.ndarray) -> list[np.ndarray]:
    """Two sites with as many heads, (row, head, d): each of the fewer ones is repeated."""
    if not first.ndim == second.ndim == 3:
        return [first, second]
    heads = max(first.shape[1], second.shape[1])
    repeats = [heads // x.shape[1] for x in (first, second)]
    return [x.repeat(n, axis=1) for x, n in zip((first, second), repeats, strict=True)]
