"""Category selectivity: are words of one category more alike than words of different ones?

Source: Mike X Cohen, "50 ML projects to understand LLMs", project 38, parts 5, 6 and 7.
"""

from collections.abc import Callable

import numpy as np
import xarray as xr
from scipy import stats

from microtome.statistics.similarity import fisher_z, padded, word_pairs

#: The scales selectivity is measured on: the cosines as they are, or their Fisher-z.
SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "cosine": lambda cosine: cosine,
    "fisher_z": fisher_z,
}


def selectivity(cosines: xr.Dataset) -> xr.Dataset:
    """Compare the similarities within categories with those across them.

    Args:
        cosines: `cosine`, (…, `site`, `word`, `other`), with `category` along `word`.

    Returns:
        (`scale`, …, `site`): `difference` of the means, within minus across; `t` and `p` of
        Student's two-sample test with pooled variance, which takes pairs as independent as the
        notebook does (see `microtome.statistics.permutation`); `average` of the two means.
    """
    results = []
    for transform in SCALES.values():
        within, across = _within_and_across(cosines, transform)
        means = within.mean(axis=-1), across.mean(axis=-1)
        test = stats.ttest_ind(within, across, axis=-1)
        results.append(
            {
                "difference": means[0] - means[1],
                "t": test.statistic,
                "p": test.pvalue,
                "average": (means[0] + means[1]) / 2,
            }
        )
    dims = cosines["cosine"].dims[:-2]
    return xr.Dataset(
        {
            name: (("scale", *dims), np.stack([result[name] for result in results]))
            for name in results[0]
        },
        {"scale": list(SCALES), **{dim: cosines[dim] for dim in dims}},
    )


def similarity_distributions(cosines: xr.Dataset) -> xr.Dataset:
    """Histograms of the similarities within and across categories, at one layer.

    Args:
        cosines: `cosine`, (`site`, `word`, `other`), with `category` along `word`.

    Returns:
        `density` over `left_edge`, (`site`, `pairs`, `bin`), with Freedman-Diaconis bins, padded
        with NaN; `t`, (`site`,), as in `selectivity`.
    """
    within, across = _within_and_across(cosines, SCALES["cosine"])
    histograms = [
        np.histogram(values, bins="fd", density=True)
        for site in zip(within, across, strict=True)
        for values in site
    ]
    shape = (len(within), 2, -1)
    return xr.Dataset(
        {
            "density": (
                ("site", "pairs", "bin"),
                padded([density for density, _ in histograms]).reshape(shape),
            ),
            "left_edge": (
                ("site", "pairs", "bin"),
                padded([edges[:-1] for _, edges in histograms]).reshape(shape),
            ),
            "t": ("site", stats.ttest_ind(within, across, axis=-1).statistic),
        },
        {"site": cosines["site"], "pairs": ["within", "across"]},
    )


def _within_and_across(
    cosines: xr.Dataset, transform: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Similarities of pairs of one category, and of pairs of two, along the last axis."""
    masks = word_pairs(cosines)
    values = transform(cosines["cosine"].values)
    return values[..., masks["within"].values == 1], values[..., masks["across"].values == 1]
