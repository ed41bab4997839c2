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


def entropies(entropies: xr.Dataset) -> str:
    """The head that attends most narrowly, and the one that attends most widely."""
    mean = entropies["entropy"].weighted(entropies["n"]).mean("position")
    ends = []
    for place in (mean.argmin(("layer", "n_heads")), mean.argmax(("layer", "n_heads"))):
        head = int(place["n_heads"])
        layer = int(mean["layer"][place["layer"]])
        ends.append(f"{number(mean.isel(place))} nats in head {head} of layer {layer}")
    return f"The mean entropy is {listed(ends)}."
