"""What the figures of the study on hidden states say of a model, in numbers."""

import xarray as xr

from microtome.page.numbers import listed, number, peak, quoted, significant


def token_profile(token_profile: xr.Dataset) -> str:
    """How the variance grows."""
    variance = token_profile["variance"]
    return (
        f"The variance is {significant(variance[0])} at first, {number(variance[-1])} at last, and "
        f"largest in {peak(variance)}."
    )


def layer_similarity(layer_similarity: xr.Dataset) -> str:
    """How much is left of the embedding at the end."""
    ends = layer_similarity["cosine"].isel(hidden=0, other=-1).values
    texts = layer_similarity["text"].values
    alike = [f"{number(c)} ({quoted(t)})" for c, t in zip(ends, texts, strict=True)]
    return f"The first and the last hidden state of a token have a similarity of {listed(alike)}."


def token_similarity(token_similarity: xr.Dataset) -> str:
    """How alike two tokens are in each of the hidden states."""
    cosine, n = token_similarity["cosine"], token_similarity.sizes["token"]
    means = (cosine.sum(("token", "other")) - n) / (n * (n - 1))
    alike = [
        f"{number(m)} ({h})" for m, h in zip(means.values, means["hidden"].values, strict=True)
    ]
    return f"Two tokens have a similarity of {listed(alike)}, on average."


def similarity_profile(similarity_profile: xr.Dataset) -> str:
    """Where tokens are least and most alike."""
    mean = similarity_profile["cosine"].mean("pair")
    return f"On average, tokens are least alike in {peak(mean, lowest=True)}, most in {peak(mean)}."


def scaling(scaling: xr.Dataset) -> str:
    """Which block's scaling changes the prediction most."""
    found = scaling["log_probability"]
    return (
        f"Unchanged, the log-probability is {number(scaling['clean'])}. Scaled, it is lowest in "
        f"{peak(found, lowest=True)} and highest in {peak(found)}."
    )
