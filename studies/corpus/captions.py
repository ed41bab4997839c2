"""What the figures of the study on a corpus say of a model, in numbers."""

import xarray as xr

from microtome.page.numbers import listed, number, peak, spread


def moments(moments: xr.Dataset) -> str:
    """How wide the values are, and where the outliers are."""
    sites = [
        f"{site}: standard deviation {spread(own['sd'])}, kurtosis largest in "
        f"{peak(own['kurtosis'], 1)}"
        for site, own in ((site, moments.sel(site=site)) for site in moments["site"].values)
    ]
    return f"{'; '.join(sites)}."


def quantiles(quantiles: xr.Dataset) -> str:
    """How far the outermost values are from the bulk."""
    ends = quantiles["quantile"].isel(share=[0, -1])
    shares = [f"{100 * end:g}%" for end in ends["share"].values]
    sites = [
        f"{site}: from {number(own.isel(share=0).min())} ({shares[0]}) to "
        f"{number(own.isel(share=1).max())} ({shares[1]})"
        for site, own in ((site, ends.sel(site=site)) for site in ends["site"].values)
    ]
    return f"Over all layers, {'; '.join(sites)}."


def spaces(spaces: xr.Dataset) -> str:
    """How many dimensions each site takes up, and how alike sites are."""
    sites = [
        f"{site}: {spread(spaces['participation_ratio'].sel(site=site), 1)} dimensions"
        for site in spaces["site"].values
    ]
    pairs = [
        f"CKA of {pair}: {spread(spaces['cka'].sel(pair=pair))}"
        for pair in (spaces["pair"].values if "pair" in spaces else ())
    ]
    return f"{'; '.join([*sites, *pairs])}."


def entropies(entropies: xr.Dataset) -> str:
    """The head that attends most narrowly, and the one that attends most widely."""
    mean = entropies["entropy"].weighted(entropies["n"]).mean("position")
    ends = []
    for place in (mean.argmin(("layer", "n_heads")), mean.argmax(("layer", "n_heads"))):
        head = int(place["n_heads"])
        layer = int(mean["layer"][place["layer"]])
        ends.append(f"{number(mean.isel(place))} nats in head {head} of layer {layer}")
    return f"The mean entropy is {listed(ends)}."
