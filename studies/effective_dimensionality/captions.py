"""What the figures of the study on effective dimensionality say of a model, in numbers."""

import xarray as xr

from microtome.page.numbers import listed, number, share, spread


def concept(concept: xr.Dataset) -> str:
    """The participation ratios."""
    line, noisy = (number(ratio, 3) for ratio in concept["participation_ratio"].values)
    return f"The participation ratio is {line} on the line, and {noisy} beside it."


def most_likely(most_likely: xr.Dataset, shuffled_most_likely: xr.Dataset) -> str:
    """The medians."""
    real, shuffled = (
        number(data["log_probability"].median()) for data in (most_likely, shuffled_most_likely)
    )
    return f"The median is {real} for real tokens, and {shuffled} for shuffled ones."


def spectrum(spectrum: xr.Dataset) -> str:
    """What the first component holds, and how many are needed."""
    first = (spectrum["explained"].sel(component=1) / 100).values
    counts, percent = spectrum["n_components"].values, spectrum.attrs["percent"]
    return (
        f"The first component holds {share(first[0])} of the variance, and {share(first[1])} "
        f"without the first tokens; {percent:g}% are held by {counts[0]} components, and by "
        f"{counts[1]} without the first tokens."
    )


def ranks(dimensionality: xr.Dataset, shuffled_dimensionality: xr.Dataset) -> str:
    """Ranks, and the tokens that they are of."""
    real, shuffled = (
        data.isel(sequence=0).sel(tokens="all")
        for data in (dimensionality, shuffled_dimensionality)
    )
    return (
        f"{real['n_unique'].item()} of {real['n_tokens'].item()} tokens are unique. Ranks are "
        f"{spread(real['rank'], 0)} of real tokens, {spread(shuffled['rank'], 0)} of shuffled ones."
    )


def effective_dimensionality(
    dimensionality: xr.Dataset, shuffled_dimensionality: xr.Dataset
) -> str:
    """Where real tokens take up more dimensions than shuffled ones, and fewer."""
    real, shuffled = (
        data["n_components"].isel(sequence=0).sel(tokens="all")
        for data in (dimensionality, shuffled_dimensionality)
    )
    more, fewer, n = int((real > shuffled).sum()), int((real < shuffled).sum()), real.size
    return (
        f"Real tokens take up {spread(real, 0)} dimensions, more than shuffled ones in {more} and "
        f"fewer in {fewer} of {n} hidden states; a single one in {int((real == 1).sum())}."
    )


def participation_ratio(comparison: xr.Dataset) -> str:
    """In how many hidden states the text is unlike its shuffles."""
    chosen = comparison.sel(measure="participation_ratio")
    n, (every, rest) = chosen.sizes["hidden"], chosen["outside"].sum("hidden").values
    medians = chosen["observed"].median("hidden").values
    return (
        f"The median over the hidden states is {listed([number(m, 1) for m in medians])}, with and "
        f"without the first tokens. The text is outside the interval of its shuffles in {every} "
        f"and {rest} of {n}."
    )
