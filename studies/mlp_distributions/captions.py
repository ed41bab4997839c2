"""What the figures of the study on MLP distributions say of a model, in numbers."""

import numpy as np
import xarray as xr

from microtome.figures.labels import stage_labels
from microtome.options import Layer
from microtome.page.numbers import listed, number, share, significant, spread


def gelu(gelu: xr.Dataset) -> str:
    """Where GELU is lowest."""
    lowest = gelu.isel(sample=int(gelu["gelu"].values.argmin()))
    return f"GELU is lowest at {number(lowest['raw'])}, with {number(lowest['gelu'])}."


def linear_separation(linear_separation: xr.Dataset) -> str:
    """What lies between the rings, by their radius."""
    radius = linear_separation["radius"]
    ends = [f"{spread(radius.sel(ring=ring))} ({ring})" for ring in radius["ring"].values]
    return f"The radius is {listed(ends)}."


def weight_product(weight_product: xr.Dataset) -> str:
    """The mean square on the diagonal and beside it."""
    squared = weight_product["squared"].values
    diagonal = np.eye(len(squared), squared.shape[1], dtype=bool)
    on, beside = squared[diagonal].mean(), squared[~diagonal].mean()
    return f"The mean square is {significant(on)} on the diagonal, {significant(beside)} beside it."


def weight_histograms(weight_histograms: xr.Dataset, *, layer: Layer) -> str:
    """The width of each matrix's distribution at a layer."""
    sd = _sd(weight_histograms.sel(layer=layer))
    widths = [f"{m} {number(sd.sel(matrix=m))}" for m in sd["matrix"].values]
    return f"Standard deviations in layer {layer}: {listed(widths)}."


def weight_profile(weight_histograms: xr.Dataset) -> str:
    """How the width of each matrix's distribution changes with depth."""
    sd = _sd(weight_histograms)
    widths = [f"{m} {spread(sd.sel(matrix=m))}" for m in sd["matrix"].values]
    return f"Standard deviations over the layers: {listed(widths)}."


def activation_histograms(activation_histograms: xr.Dataset) -> str:
    """What share of each stage is negative."""
    density = activation_histograms["density"]
    negative = density.where(density["value"] < 0, 0).sum("value") / density.sum("value")
    stages = [
        f"{stage} {share(part)}"
        for part, stage in zip(negative.values, stage_labels(activation_histograms), strict=True)
    ]
    layer, limit = (activation_histograms.attrs[key] for key in ("layer", "limit"))
    return f"Negative among the values within ±{limit:g}, in layer {layer}: {listed(stages)}."


def token_histograms(token_histograms: xr.Dataset) -> str:
    """The tokens that reach beyond the axis most."""
    return f"Layer {token_histograms.attrs['layer']}. {_beyond(token_histograms, 'position')}"


def activation_profile(activation_profile: xr.Dataset) -> str:
    """The layers that reach beyond the axis most."""
    return _beyond(activation_profile, "layer")


def tsne(tsne: xr.Dataset) -> str:
    """How before and after the MLP correlate."""
    r = number(tsne["r"].item(), 3)
    return f"Layer {tsne.attrs['layer']}: before and after the MLP correlate with r = {r} (C)."


def _beyond(histograms: xr.Dataset, rows: str) -> str:
    """Where most of each stage lies beyond the limits, if it is 0.1% or more."""
    stages = []
    for site, stage in zip(histograms["site"].values, stage_labels(histograms), strict=True):
        beyond = histograms["beyond"].sel(site=site)
        most = beyond.isel({rows: int(beyond.values.argmax())})
        if most >= 0.001:
            stages.append(f"{stage} {share(most.item())} in {rows} {most[rows].item()}")
    limit = f"±{histograms.attrs['limit']:g}"
    if not stages:
        return f"Less than 0.1% lies beyond {limit}."
    return f"The largest share beyond {limit}: {listed(stages)}."


def _sd(histograms: xr.Dataset) -> xr.DataArray:
    """Standard deviations within the limits, from the histograms."""
    density, value = histograms["density"], histograms["value"]
    part = density / density.sum("value")
    mean = (part * value).sum("value")
    return (part * (value - mean) ** 2).sum("value") ** 0.5
