"""How alike the activations of two sites are, element by element.

Source: Mike X Cohen, "50 ML projects to understand LLMs", project 38, part 2.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import xarray as xr


def site_pairs(sites: Sequence[str]) -> list[str]:
    """Names of the pairs of sites, in their order: `q-k`, `q-v`, `k-v`."""
    return [f"{a}-{b}" for a, b in combinations(sites, 2)]


def paired_values(section: xr.Dataset, sites: Sequence[str]) -> xr.Dataset:
    """Put the activations of each two sites side by side.

    With grouped queries, a query head is paired with the key and value head that serves it,
    so that those stand beside several query heads.

    Args:
        section: variables (`sequence`, heads, `d_head`), the sites among them.
        sites: the sites to pair.

    Returns:
        For each pair `a-b` of sites a variable of that name, (`axis`, `value_a-b`), with the
        first site's values on axis 0.
    """
    pairs = {}
    for a, b in combinations(sites, 2):
        first, second = (section[site].values.astype(np.float64) for site in (a, b))
        heads = max(first.shape[1], second.shape[1])
        both = [x.repeat(heads // x.shape[1], axis=1).ravel() for x in (first, second)]
        pairs[f"{a}-{b}"] = (("axis", f"value_{a}-{b}"), np.stack(both))
    return xr.Dataset(pairs)


def correlations(section: xr.Dataset, sites: Sequence[str]) -> xr.Dataset:
    """Pearson's r of each two sites over all sequences, heads and dimensions.

    Args:
        section: as in `paired_values`.
        sites: the sites to pair.

    Returns:
        `r`, (`pair`,).
    """
    values = paired_values(section, sites)
    pairs = site_pairs(sites)
    r = [np.corrcoef(values[pair].values)[0, 1] for pair in pairs]
    return xr.Dataset({"r": ("pair", r)}, {"pair": pairs})
