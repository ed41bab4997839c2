"""What the figures of the study on the logit lens say of a model, in numbers."""

import numpy as np
import xarray as xr

from microtome.options import Limits
from microtome.page.numbers import number, peak, quoted
from microtome.statistics.lens import rank


def vocabulary_seen(seen: xr.Dataset) -> str:
    """The most likely token, and the rank of the one that is seen."""
    values = seen["log_probability"].values
    return _vocabulary(values, seen["text"].item(), int(seen["token_id"]), seen["top_text"].item())


def vocabulary_unseen(predictions: xr.Dataset) -> str:
    """The most likely token, and the rank of the one that is there."""
    chosen = predictions.isel(token=predictions.attrs["chosen"], hidden=-2)
    texts = chosen["text"].item(), int(chosen["token_id"]), chosen["top_text"].item()
    return _vocabulary(chosen["vocabulary"].values, *texts)


def target_profile(predictions: xr.Dataset, slopes: xr.Dataset) -> str:
    """The fit, with and without the embeddings, and when the target becomes most likely."""
    fit = slopes.sel(of="target").isel(token=slopes.attrs["chosen"])
    ranks = predictions["rank"].isel(token=predictions.attrs["chosen"])
    first, last = int(ranks[0]), int(ranks[-1])
    return (
        f"The slope is {number(fit['slope'])}, and {number(fit['slope_blocks'])} without the "
        f"embeddings; allowing for autocorrelation, {_interval(fit, '')} and "
        f"{_interval(fit, '_blocks')}. The target has rank {first:,} at first, {last:,} at last."
    )


def lens_images(
    predictions: xr.Dataset,
    slopes: xr.Dataset,
    *,
    target_limits: Limits,
    top_limits: Limits,
) -> str:
    """Where targets are likeliest, and how many slopes hold."""
    mean, alpha = predictions["log_probability"].mean("token"), slopes.attrs["alpha"]
    counts = (slopes["p_hac_holm"] < alpha).sum("token").sel(of=["target", "top"]).values
    return (
        f"On average, the target's log-probability is {number(mean[0])} at first and largest in "
        f"{peak(mean)}. Corrected, {counts[0]} of {predictions.sizes['token']} slopes of targets "
        f"differ from 0, and {counts[1]} of those of most likely tokens."
    )


def predicted_tokens(predictions: xr.Dataset) -> str:
    """How many tokens are predicted at last, and how far from it the others are."""
    hits, median = int((predictions["rank"][-1] == 1).sum()), predictions["rank"].median("token")
    return (
        f"At last, the most likely token is the one that is there in {hits} of "
        f"{predictions.sizes['token']} places. The median rank of what is there is "
        f"{number(median[0], 1)} at first and lowest in {peak(median, 1, lowest=True)}."
    )


def _vocabulary(values: np.ndarray, text: str, token_id: int, top: str) -> str:
    """The most likely token of a vocabulary, and what is said of another."""
    return (
        f"Most likely is {quoted(top)}, with a log-probability of {number(values.max())}; "
        f"{quoted(text)} has rank {rank(values, token_id):,} of {len(values):,}, and "
        f"{number(values[token_id])}."
    )


def _interval(fit: xr.Dataset, end: str) -> str:
    """The interval of a slope that allows for autocorrelation, in words."""
    return f"{number(fit[f'low_hac{end}'])} to {number(fit[f'high_hac{end}'])}"
