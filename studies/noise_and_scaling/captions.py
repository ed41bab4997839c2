"""What the figures of the study on noise and scaling say of a model, in numbers."""

import numpy as np
import xarray as xr

from microtome.page.numbers import number, peak, quoted


def clean_prediction(predictions: xr.Dataset) -> str:
    """How likely the target and the most likely token are."""
    clean = predictions.sel(run="clean")
    found = clean["log_probability"].values
    target, top = quoted(predictions["text"].item()), quoted(clean["top_text"].item())
    return (
        f"{target} has a log-probability of {number(found[predictions.attrs['target_id']])}, rank "
        f"{int(clean['target_rank']):,} of {found.size:,}; the most likely token, {top}, has "
        f"{number(found.max())}."
    )


def noise_norms(noise_norms: xr.Dataset) -> str:
    """How large the noise is beside what it is added to, and what is left of it."""
    return _norms(noise_norms)


def scaling_norms(scaling_norms: xr.Dataset) -> str:
    """How large the difference is beside what was scaled, and what is left of it."""
    return _norms(scaling_norms)


def noised_predictions(noised_predictions: xr.Dataset, noise_averages: xr.Dataset) -> str:
    """Where the target loses most, and what is left of that without noise in the first token."""
    target = noise_averages["mean"].sel(measure="target", drop=True)
    everywhere, later = (target.sel(tokens=tokens, drop=True) for tokens in ("all", "later"))
    changed = int(noised_predictions["changed"].isel(seed=0).sum())
    return (
        f"The target's mean log-probability is lowest in {peak(everywhere, lowest=True)}, and in "
        f"{peak(later, lowest=True)} where the first token has no noise. In the first draw, "
        f"another token is most likely in {changed} of {noised_predictions.sizes['layer']} layers."
    )


def scaled_predictions(scaled_predictions: xr.Dataset) -> str:
    """Which block's scaling changes the prediction most."""
    target = scaled_predictions["log_probability"].sel(token="target", drop=True)
    changed = int(scaled_predictions["changed"].sum())
    return (
        f"The target's log-probability is lowest in {peak(target, lowest=True)} and highest in "
        f"{peak(target)}. Another token is most likely in {changed} of {target.size} layers."
    )


def _norms(norms: xr.Dataset) -> str:
    """Relative norms in the changed block and in the last one."""
    (at,), last = np.flatnonzero(norms["hidden"] == f"L{norms.attrs['layer']}"), -1
    first, later = (norms[name].values for name in ("first", "later"))
    return (
        f"Of its clean norm, the difference is {number(first[at])} in the first token and "
        f"{number(later[at])} in the others in L{norms.attrs['layer']}, and {number(first[last])} "
        f"and {number(later[last])} in the last block."
    )
