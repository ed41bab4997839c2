"""What the figures of the study on similarities of hidden states say of a model, in numbers."""

import xarray as xr

from microtome.options import FirstPosition
from microtome.page.numbers import listed, number, peak, quoted, spread


def token_deviations(token_descriptives: xr.Dataset) -> str:
    """How much the first token differs from the others."""
    sd = token_descriptives["sd"]
    first, others = sd.isel(token=0), sd.isel(token=slice(1, None)).max("token")
    return (
        f"The first token's standard deviation is largest in {peak(first)}, that of the others in "
        f"{peak(others)}."
    )


def layer_distances(layer_distances: xr.Dataset) -> str:
    """The largest distance."""
    return f"The largest distance is {int(layer_distances['distance'].max())} blocks."


def similarity_by_distance(layer_similarity: xr.Dataset, layer_distances: xr.Dataset) -> str:
    """How alike neighbours are."""
    cosine, distance = layer_similarity["cosine"], layer_distances["distance"]
    neighbours = cosine.where(distance == 1).mean(("hidden", "other")).values
    texts = layer_similarity["text"].values
    alike = [f"{number(c)} ({quoted(t)})" for c, t in zip(neighbours, texts, strict=True)]
    return f"Hidden states one block apart have a mean similarity of {listed(alike)}."


def similarity_controls(similarity_controls: xr.Dataset) -> str:
    """How far the similarity is one of a few dimensions, or of the mean."""
    parts = (
        ("Two tokens of one text have a mean similarity of", "within"),
        (f"without {similarity_controls.attrs['n_dimensions']} dimensions", "without_largest"),
        ("without the mean token", "centred"),
    )
    said = [f"{words} {spread(similarity_controls[name])}" for words, name in parts]
    return f"{', '.join(said)}."


def descriptives(descriptives: xr.Dataset, *, first_token: FirstPosition) -> str:
    """Where the averages are largest."""
    kept = descriptives.isel(token=descriptives["position"].values >= first_token).mean("token")
    return (
        f"On average, the L1 mean is largest in {peak(kept['mean_absolute'])}, the standard "
        f"deviation in {peak(kept['sd'])}; the mean is {spread(kept['mean'])}."
    )
