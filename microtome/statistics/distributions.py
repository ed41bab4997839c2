"""How values are distributed: histograms of activations, over all tokens and by position.

Source: Mike X Cohen, "50 ML projects to understand LLMs", project 42, parts 2 to 4.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import xarray as xr


def site_histograms(
    section: xr.Dataset, stages: Mapping[str, str], n_edges: int, limit: float
) -> xr.Dataset:
    """Histograms of the activations at some sites, over all tokens.

    Args:
        section: variables (`token`, …), the sites among them.
        stages: for each site, what is computed there.
        n_edges: of the bins; see `histograms`.
        limit: the last edge; the first is its negative.

    Returns:
        `density`, (`site`, `value`), with the bins' centres along `value`; `n`, (`site`,), how
        many activations there are, and `beyond`, the share of them outside the limits;
        coordinate `stage` along `site`; attribute `limit`.
    """
    values = [section[site].values for site in stages]
    densities, beyond = histograms(values, n_edges, limit)
    return xr.Dataset(
        {
            "density": (("site", "value"), densities),
            "beyond": ("site", beyond),
            "n": ("site", [x.size for x in values]),
        },
        {
            "site": list(stages),
            "stage": ("site", list(stages.values())),
            "value": centres(n_edges, limit),
        },
        {"limit": limit},
    )


def token_histograms(
    section: xr.Dataset, stages: Mapping[str, str], n_edges: int, limit: float
) -> xr.Dataset:
    """Histograms as in `site_histograms`, for each position in the text.

    Texts, if there are several, are taken together.

    Returns:
        As in `site_histograms`, with a new first dimension `position`.
    """
    position = section["position"].values
    positions = np.unique(position)
    rows = [
        site_histograms(section.isel(token=position == place), stages, n_edges, limit)
        for place in positions
    ]
    joined = xr.concat(rows, dim="position", coords="minimal", compat="override", join="exact")
    return joined.assign_coords(position=positions)


def histograms(
    samples: Iterable[np.ndarray], n_edges: int, limit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Densities of values between ±limit; each integrates to 1, whatever lies beyond them.

    Args:
        samples: arrays of any shapes, used one at a time.
        n_edges: the edges of the bins, evenly spaced and including both limits; one more than
            there are bins.
        limit: the last edge; the first is its negative.

    Returns:
        Densities per unit of the values, (sample, n_edges - 1), 0 where all values lie beyond;
        and the share of the values that lie beyond, (sample,).
    """
    densities, beyond = [], []
    for values in samples:
        # In float64, the dtype of the edges: a value on an edge belongs to the bin above it.
        count, edges = np.histogram(values.astype(np.float64), n_edges - 1, (-limit, limit))
        inside = count.sum()
        densities.append(count / (max(inside, 1) * np.diff(edges)))
        beyond.append(1 - inside / values.size)
    return np.array(densities), np.array(beyond)


def centres(n_edges: int, limit: float) -> np.ndarray:
    """The centres of the bins of `histograms`, (n_edges - 1,)."""
    edges = np.linspace(-limit, limit, n_edges)
    return (edges[:-1] + edges[1:]) / 2
