"""Jackknife: the uncertainty of what is made of values that are not independent.

Pairs that share a thing, and tokens that follow each other, are dependent: it is things, or blocks
of tokens, that are left out in turn, each with all that it takes part in.
Source: B. Efron and C. Stein, "The jackknife estimate of variance", Annals of Statistics 9 (1981).
"""

import numpy as np
from scipy.stats import norm

from microtome.statistics.similarity import fisher_z


def standard_error(without: np.ndarray) -> np.ndarray:
    """The jackknife's standard error.

    Args:
        without: what is estimated, without one thing after another, (thing, …).

    Returns:
        (…,).
    """
    n = len(without)
    error: np.ndarray = np.sqrt((n - 1) / n * ((without - without.mean(axis=0)) ** 2).sum(axis=0))
    return error


def correlation_interval(
    r: np.ndarray, without: np.ndarray, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """The interval of correlations, which ends between -1 and 1: that of their Fisher's z.

    Args:
        r: correlations, (…,).
        without: the same, without one thing after another, (thing, …).
        alpha: 0.05 for an interval of 95 %.

    Returns:
        The ends of the interval, (…,) each.
    """
    z, half = fisher_z(r), norm.ppf(1 - alpha / 2) * standard_error(fisher_z(without))
    return np.tanh(z - half), np.tanh(z + half)
