"""What the figures of the study on the selectivity of hidden states say of a model, in numbers."""

import xarray as xr

from microtome.page.numbers import listed, number, peak, significant


def token_variances(token_variances: xr.Dataset) -> str:
    """The mean variance at the last token, and the largest one before it."""
    variance = token_variances["variance"]
    before = variance.isel(position=slice(-1)).max()
    return (
        f"The mean variance is {significant(variance.isel(position=-1).mean())} at the last token, "
        f"and at most {significant(before)} before it."
    )


def category_pairs(category_pairs: xr.Dataset) -> str:
    """How many pairs there are of each kind."""
    first, second = category_pairs["first"].values, category_pairs["second"].values
    counts = [
        f"{int((category_pairs['product'] == kind).sum()):,} ({a}, {b})"
        for kind, a, b in zip(category_pairs["kind"].values, first, second, strict=True)
    ]
    return f"Pairs: {listed(counts)}."


def category_similarities(
    cosine_similarities: xr.Dataset, similarity_distributions: xr.Dataset, selectivity: xr.Dataset
) -> str:
    """The two means in the hidden state that is drawn, and t."""
    hidden = similarity_distributions.attrs["hidden"]
    chosen = selectivity.sel(scale="cosine", hidden=hidden)
    within, across = (chosen["average"] + sign * chosen["difference"] / 2 for sign in (1, -1))
    n = cosine_similarities.sizes["word"]
    return (
        f"In {hidden}, the mean similarity of {n} texts is {number(within, 3)} within and "
        f"{number(across, 3)} across categories; t is {number(chosen['t'], 1)}."
    )


def selectivity_profile(selectivity: xr.Dataset) -> str:
    """Where the difference and t are largest."""
    chosen = selectivity.sel(scale="cosine")
    return (
        f"The difference is largest in {peak(chosen['difference'], 3)}, t in "
        f"{peak(chosen['t'], 1)}; t is least in {peak(chosen['t'], 1, lowest=True)}."
    )


def context_histograms(context_histograms: xr.Dataset) -> str:
    """The means in the first and the last hidden state."""
    mean = context_histograms["mean"]
    ends = [
        f"{number(of_pairs[0])} to {number(of_pairs[-1])} ({name.strip('<>')})"
        for name, of_pairs in zip(mean["pairs"].values, mean.values, strict=True)
    ]
    return f"From the embeddings to the last hidden state, means go from {listed(ends)}."
