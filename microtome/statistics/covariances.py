"""Covariances of neurons over a whole corpus, and what they tell of the spaces that sites span."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import xarray as xr

from microtome.statistics.correlation import site_pairs
from microtome.statistics.dimensionality import participation_ratio
from microtome.statistics.streamed import Kept, Summed, stacked
from microtome.store.layers import Section


class Covariances(Summed):
    """Covariances of all neurons at some sites, over tokens: each site's own, and between sites.

    Parts are joined as Chan, Golub and LeVeque join sums of squares ("Algorithms for computing the
    sample variance", 1983), in float64. It finishes as `covariance`, (`layer`, `neuron`, `other`),
    of the population, and `mean`, (`layer`, `neuron`); coordinates of `neuron` and `other` are the
    `site` and `other_site` that they belong to, one site after the other and head after head. `n`,
    how many tokens, (`layer`,).
    """

    def __init__(self, sites: Sequence[str]) -> None:
        """Begin with nothing."""
        super().__init__(sites, ["joint"])

    def measured(self, section: Section) -> Iterator[tuple[str, Kept]]:
        """Count, means, and products of deviations from them."""
        found = [section.values[site].reshape(len(section.rows), -1) for site in self.sites]
        values = np.concatenate(found, axis=1, dtype=np.float64)
        mean = values.mean(0)
        values -= mean
        widths = np.array([of_site.shape[1] for of_site in found])
        products = values.T @ values
        n = np.int64(len(values))
        yield "joint", {"n": n, "mean": mean, "products": products, "widths": widths}

    def joined(self, first: Kept, second: Kept) -> Kept:
        """Of both: products grow by those of the difference of the means."""
        a, b = first["n"], second["n"]
        difference = second["mean"] - first["mean"]
        products: np.ndarray = first["products"]
        products += second["products"]
        products += np.outer(difference, difference) * (float(a) * float(b) / (a + b))
        mean = first["mean"] + difference * (b / (a + b))
        return {"n": a + b, "mean": mean, "products": products, "widths": first["widths"]}

    def finish(self) -> xr.Dataset:
        """The covariances."""
        self.require_tokens()
        kept = [parts["joint"] for parts in self.kept.values()]
        (widths, *_) = (found["widths"] for found in kept)
        site = np.repeat(self.sites, widths)
        return xr.Dataset(
            {
                "covariance": (
                    ("layer", "neuron", "other"),
                    stacked(found["products"] / found["n"] for found in kept),
                ),
                "mean": (("layer", "neuron"), stacked(found["mean"] for found in kept)),
                "n": ("layer", [found["n"] for found in kept]),
            },
            {
                "layer": list(self.kept),
                "site": ("neuron", site.astype(object)),
                "other_site": ("other", site.astype(object)),
            },
        )


def spaces(covariances: xr.Dataset) -> xr.Dataset:
    """How many dimensions the tokens take up at each site, and how alike sites arrange them.

    Args:
        covariances: what `Covariances` finishes as.

    Returns:
        `participation_ratio`, (`layer`, `site`), of the variances of principal components: 1 if one
        holds all, n if n hold the same. Of two or more sites also `cka`, (`layer`, `pair`), the
        linear centred kernel alignment (Kornblith et al. 2019), 0 to 1: with centred activations
        X and Y, ||XᵀY||² / (||XᵀX|| ||YᵀY||) in Frobenius norms. It is also the correlation of all
        inner products of two tokens at one site with those at the other, and so a representational
        similarity. Where all tokens are equal, both are NaN.
    """
    of_neuron = covariances["site"].values
    sites = list(dict.fromkeys(of_neuron.tolist()))
    found = [_spaces(matrix, of_neuron, sites) for matrix in covariances["covariance"].values]
    ratios, similarities = (np.array(values) for values in zip(*found, strict=True))
    measures = {"participation_ratio": (("layer", "site"), ratios)}
    coordinates = {"layer": covariances["layer"].values, "site": sites}
    if len(sites) > 1:
        measures["cka"] = (("layer", "pair"), similarities)
        coordinates["pair"] = site_pairs(sites)
    return xr.Dataset(measures, coordinates)


def _spaces(
    matrix: np.ndarray, of_neuron: np.ndarray, sites: Sequence[str]
) -> tuple[list[Any], list[Any]]:
    """The participation ratio of each site, and the alignment of each pair."""
    own = {site: matrix[np.ix_(of_neuron == site, of_neuron == site)] for site in sites}
    norms = {site: np.linalg.norm(block) for site, block in own.items()}
    ratios = [
        participation_ratio(np.maximum(np.linalg.eigvalsh(block), 0)) for block in own.values()
    ]
    with np.errstate(invalid="ignore"):  # where all tokens are equal, there is none
        similarities = [
            np.linalg.norm(matrix[np.ix_(of_neuron == a, of_neuron == b)]) ** 2
            / (norms[a] * norms[b])
            for a, b in combinations(sites, 2)
        ]
    return ratios, similarities
