"""What the figures of the study on silenced heads say of a model, in numbers."""

import xarray as xr

from microtome.page.numbers import number, peak, quoted


def clean_similarity(clean_similarity: xr.Dataset) -> str:
    """Where tokens are least and most alike."""
    mean = clean_similarity["mean"]
    return f"Tokens are least alike in {peak(mean, lowest=True)}, most in {peak(mean)}."


def similarity_change(similarity_change: xr.Dataset) -> str:
    """What is left of the difference at the end, and where it is largest."""
    last = similarity_change.isel(layer=-1)
    return (
        f"In the last layer the mean difference is {number(last['mean'], 4)} (standard error "
        f"{number(last['std_error'], 4)}); the mean absolute one is largest in "
        f"{peak(similarity_change['mean_absolute'], 4)}."
    )


def one_head(one_head: xr.Dataset) -> str:
    """In how many layers another token becomes most likely."""
    changed, n = int(one_head["changed"].sum()), one_head.sizes["layer"]
    least = peak(one_head["log_probability"], lowest=True)
    return (
        f"Without head {one_head.attrs['head']}, another token is most likely in {changed} of {n} "
        f"layers; the log-probability is lowest in {least}."
    )


def each_head(each_head: xr.Dataset) -> str:
    """The head that matters most, and how many change the most likely token."""
    change = each_head["target"]
    place = change.isel(change.argmin(("layer", "head")))
    changed = int((each_head["top_token_id"] != each_head["token_id"]).sum())
    return (
        f"{quoted(each_head['text'].item())} loses most without head {int(place['head'])} of layer "
        f"{int(place['layer'])}: {number(place)}. Another token is most likely without {changed} "
        f"of {change.size} heads."
    )


def layer_averages(layer_averages: xr.Dataset) -> str:
    """The layers whose heads matter most."""
    target = layer_averages["mean"].sel(token="target", drop=True)
    return (
        f"The target loses most in {peak(target, lowest=True)} and gains most in {peak(target)}; "
        f"the mean divergence is largest in {peak(layer_averages['kl'], 3)}."
    )
