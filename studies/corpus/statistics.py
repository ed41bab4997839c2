"""Statistics of a corpus, made in the sweep: no activations are stored. See README.md."""

import os
from collections.abc import Iterator
from typing import Literal

import numpy as np
import xarray as xr

from microtome.options import AllSites, Count, Edges, KeyedSites, Positive
from microtome.statistics.attention import running_entropies, running_patterns
from microtome.statistics.distributions import Histograms
from microtome.statistics.moments import Moments
from microtome.statistics.streamed import streamed
from microtome.store.layers import Section
from microtome.texts.rows import row_columns, token_columns


def moments(stream: Iterator[Section], *, sites: AllSites) -> xr.Dataset:
    """Moments of all values at each site, for every layer.

    Returns:
        `mean`, `sd`, `skewness`, `kurtosis` (3 for a normal distribution), `smallest`, `largest`
        and `n`, (`layer`, `site`).
    """
    return streamed(Moments(sites), stream)


def histograms(
    stream: Iterator[Section], *, sites: AllSites, n_edges: Edges, limit: Positive
) -> xr.Dataset:
    """Histograms of all values at each site, for every layer.

    Returns:
        `density`, (`layer`, `site`, `value`), `n` and the share `beyond` the limits, (`layer`,
        `site`).
    """
    # The sweep waits for the counts: they may have all of its cores.
    n_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return streamed(Histograms(sites, n_edges, limit, n_threads), stream)


def entropies(
    stream: Iterator[Section], tokens: xr.Dataset, *, site: Literal["pattern"] = "pattern"
) -> xr.Dataset:
    """Mean entropies of all heads' patterns at each position, for every layer.

    Returns:
        `entropy` in nats, (`layer`, `n_heads`, `position`), and `n`, (`position`,), how many texts
        have it.
    """
    return running_entropies(stream, _positions(tokens))


def patterns(
    stream: Iterator[Section], tokens: xr.Dataset, *, sites: KeyedSites, n_positions: Count
) -> xr.Dataset:
    """Mean patterns or scores of all heads at the first positions, for every layer.

    Returns:
        Each of the sites, (`layer`, `n_heads`, `position`, `key`), NaN where no text reaches the
        key; `n`, (`position`,).
    """
    return running_patterns(stream, _positions(tokens), n_positions)


def _positions(tokens: xr.Dataset) -> np.ndarray:
    return row_columns(token_columns(tokens))["position"]
