"""Statistics of a corpus, made in the sweep: no activations are stored. See README.md."""

import os
from typing import Literal

import xarray as xr

from microtome.options import AllSites, Count, Edges, KeyedSites, Positive
from microtome.statistics.attention import Entropies, Patterns
from microtome.statistics.distributions import Histograms
from microtome.statistics.moments import Moments
from microtome.statistics.streamed import Streamed


def moments(*, sites: AllSites) -> Streamed:
    """Moments of all values at each site, for every layer.

    Returns:
        `mean`, `sd`, `skewness`, `kurtosis` (3 for a normal distribution), `smallest`, `largest`
        and `n`, (`layer`, `site`).
    """
    return Moments(sites)


def histograms(*, sites: AllSites, n_edges: Edges, limit: Positive) -> Streamed:
    """Histograms of all values at each site, for every layer.

    Returns:
        `density`, (`layer`, `site`, `value`), `n` and the share `beyond` the limits, (`layer`,
        `site`).
    """
    # The sweep waits for the counts: they may have all of its cores.
    n_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return Histograms(sites, n_edges, limit, n_threads)


def entropies(tokens: xr.Dataset, *, site: Literal["pattern"] = "pattern") -> Streamed:
    """Mean entropies of all heads' patterns at each position, for every layer.

    Returns:
        `entropy` in nats, (`layer`, `n_heads`, `position`), and `n`, (`position`,), how many texts
        have it.
    """
    return Entropies(tokens)


def patterns(tokens: xr.Dataset, *, sites: KeyedSites, n_positions: Count) -> Streamed:
    """Mean patterns or scores of all heads at the first positions, for every layer.

    Returns:
        Each of the sites, (`layer`, `n_heads`, `position`, `key`), NaN where no text reaches the
        key; `n`, (`position`,).
    """
    return Patterns(sites, tokens, n_positions)
