"""Statistics of a corpus, made in the sweep: no activations are stored. See README.md."""

import os
from typing import TYPE_CHECKING, Annotated, Literal

import xarray as xr

from microtome.options import (
    POSITIONS,
    AllSites,
    Count,
    Edges,
    FirstPosition,
    Held,
    KeyedSites,
    Positive,
    Shares,
    Sites,
)
from microtome.statistics import covariances as covariance
from microtome.statistics.attention import Entropies, Patterns
from microtome.statistics.covariances import Covariances
from microtome.statistics.distributions import Histograms
from microtome.statistics.grouped import TokenMeans
from microtome.statistics.highest import HighestTokens
from microtome.statistics.moments import Moments
from microtome.statistics.quantiles import Quantiles
from microtome.statistics.streamed import Streamed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


def quantiles(*, sites: AllSites, shares: Shares) -> Streamed:
    """Quantiles of all values at each site, for every layer.

    Returns:
        `quantile`, (`layer`, `site`, `share`), to 1/256 of a value of that rank; `n`, (`layer`,
        `site`).
    """
    return Quantiles(sites, shares)


def covariances(
    tokens: Annotated[xr.Dataset, POSITIONS], *, sites: Sites, first_token: FirstPosition = 0
) -> Annotated[Streamed, Held("width", "width")]:
    """Covariances of each two neurons over the tokens, also of two sites, for every layer.

    Returns:
        `covariance`, (`layer`, `neuron`, `other`), `mean`, (`layer`, `neuron`); `n`, (`layer`,);
        coordinates `site` and `other_site` of neurons, one site after the other.
    """
    return Covariances(sites).from_token(tokens, first_token)


def spaces(covariances: xr.Dataset) -> xr.Dataset:
    """How many dimensions the tokens take up at each site, and how alike sites arrange them.

    Returns:
        `participation_ratio`, (`layer`, `site`); of two or more sites `cka`, (`layer`, `pair`).
    """
    return covariance.spaces(covariances)


def highest_tokens(
    tokens: Annotated[xr.Dataset, POSITIONS],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    sites: Sites,
    n: Count,
    n_around: Count,
    first_token: FirstPosition = 0,
) -> Annotated[Streamed, Held("width", "n")]:
    """The tokens that each neuron responds to most, for every layer.

    Returns:
        Each of the sites, (`layer`, …, `rank`), the activations; `SITE_context`, their places among
        the contexts, (`context`,): `text`, `before`, `after`, `sequence`, `position`, `token_id`.
    """
    highest = HighestTokens(sites, tokens, tokenizer, n, n_around)
    return highest.from_token(tokens, first_token)


def token_means(
    tokens: Annotated[xr.Dataset, POSITIONS], *, sites: Sites
) -> Annotated[Streamed, Held("token_id", "width")]:
    """Means over all occurrences of each token that is seen, for every layer.

    Returns:
        Each of the sites, (`layer`, `token_id`, …), and `n`, (`token_id`,).
    """
    return TokenMeans(sites, tokens)


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
