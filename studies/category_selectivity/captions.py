"""What the figures of the study on category selectivity say of a model, in numbers."""

from typing import Literal

import numpy as np
import xarray as xr

from microtome.options import Layer
from microtome.page.numbers import listed, number, peak, spread


def masks(word_pairs: xr.Dataset) -> str:
    """How many pairs of words there are."""
    within, across = (int(word_pairs[mask].sum()) for mask in ("within", "across"))
    return f"{within:,} pairs within a category, {across:,} across two."


def qkv_scatter(qkv_points: xr.Dataset) -> str:
    """The correlation of each two sites."""
    return f"Layer {qkv_points.attrs['layer']}: r is {_by_pair(qkv_points['r'])}."


def qkv_profile(qkv_correlations: xr.Dataset) -> str:
    """The range of the correlation of each two sites."""
    return f"Over the layers, r is {_ranges(qkv_correlations['r'])}."


def cosine_matrices(cosine_similarities: xr.Dataset, *, layer: Layer) -> str:
    """The mean similarity at each site."""
    pairs = np.triu_indices(cosine_similarities.sizes["word"], 1)
    cosine = cosine_similarities["cosine"].sel(layer=layer)
    means = [
        f"{number(cosine.sel(site=site).values[pairs].mean())} at {site.upper()}"
        for site in cosine["site"].values
    ]
    return f"Layer {layer}: two words have a similarity of {listed(means)}, on average."


def rsa_scatter(rsa: xr.Dataset, *, layer: Layer) -> str:
    """The score of each two sites at a layer."""
    return f"Layer {layer}: r is {_by_pair(rsa['r'].sel(layer=layer))}."


def rsa_profile(rsa: xr.Dataset) -> str:
    """The range of each score, and where they are lowest."""
    lowest = peak(rsa["r"].min("pair"), lowest=True)
    return f"Scores are {_ranges(rsa['r'])}, lowest in {lowest}."


def similarity_distributions(similarity_distributions: xr.Dataset) -> str:
    """The t of each site."""
    t = similarity_distributions["t"]
    values = [f"{number(t.sel(site=s), 1)} at {s.upper()}" for s in t["site"].values]
    return f"Layer {int(similarity_distributions['layer'])}: t is {listed(values)}."


def selectivity_profile(selectivity: xr.Dataset, *, scale: Literal["cosine", "fisher_z"]) -> str:
    """Where each site tells categories apart best, and how often that is significant."""
    chosen = selectivity.sel(scale=scale)
    t = chosen["t"]
    best = [f"in {peak(t.sel(site=s), 1)} for {s.upper()}" for s in t["site"].values]
    significant, n = int((chosen["p"] < 0.05).sum()), chosen["p"].size
    return f"t is largest {listed(best)}; p < .05 at {significant} of {n} layers and sites."


def selectivity_scatter(selectivity: xr.Dataset, *, scale: Literal["cosine", "fisher_z"]) -> str:
    """Ranges of both axes."""
    chosen = selectivity.sel(scale=scale)
    return (
        f"Averages are {spread(chosen['average'])}, differences {spread(chosen['difference'])}, "
        f"t {spread(chosen['t'], 1)}."
    )


def fisher_z(fisher_z: xr.Dataset) -> str:
    """What becomes of a large similarity."""
    r, z = fisher_z["r"].values, fisher_z["z"].values
    near = int(np.abs(r - 0.9).argmin())
    return f"A similarity of {number(r[near])} becomes {number(z[near])}."


def _by_pair(r: xr.DataArray) -> str:
    return listed([f"{number(r.sel(pair=p))} ({p.upper()})" for p in r["pair"].values])


def _ranges(r: xr.DataArray) -> str:
    return listed([f"{spread(r.sel(pair=p))} ({p.upper()})" for p in r["pair"].values])
