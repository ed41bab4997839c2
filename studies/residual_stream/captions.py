"""What the figures of the study on the residual stream say of a model, in numbers."""

import numpy as np
import xarray as xr

from microtome.options import FirstPosition, Layer, Position
from microtome.page.numbers import number, share, significant
from microtome.statistics.positions import from_position


def block_output(blocks: xr.Dataset, *, layer: Layer) -> str:
    """The largest difference of the two."""
    chosen = blocks.sel(layer=layer)
    largest = float(abs(chosen["hidden_value"] - chosen["output_value"]).max())
    return f"The two differ by {significant(largest)} at most." if largest else "The two are equal."


def output_differences(blocks: xr.Dataset) -> str:
    """Where the two differ, and what the final norm does to the last one."""
    *others, _ = blocks["difference"].values
    last, largest = blocks.isel(layer=-1), max(others, default=0)
    differ = f"differ by a norm of {significant(largest)} at most" if largest else "are equal"
    return (
        f"Up to the last block the two {differ}. There the norm of the difference is "
        f"{number(last['difference'])}: the last hidden state has a norm of "
        f"{number(last['hidden'])}, the last block's output {number(last['output'])}, and their "
        f"mean cosine similarity is {number(last['cosine'])}."
    )


def adjustments(block: xr.Dataset, adjustments: xr.Dataset, *, token: Position) -> str:
    """How many tokens have a correlation, and what outlying dimensions make of it."""
    n, alpha = adjustments.sizes["token"], adjustments.attrs["alpha"]
    counts = [
        int((adjustments[f"p_{name}_holm"] < alpha).sum()) for name in ("pearson", "spearman")
    ]
    apart = abs(adjustments["pearson"] - adjustments["spearman"]).max()
    return (
        f"On average, r is {number(adjustments['pearson'].mean())} (Pearson) and "
        f"{number(adjustments['spearman'].mean())} (Spearman); they differ by {number(apart)} at "
        f"most. Corrected over tokens, {counts[0]} and {counts[1]} of {n} are significant. With "
        "what the MLP adds to other tokens, Pearson's r is "
        f"{number(adjustments['others'].mean())}."
    )


def reconstruction(block: xr.Dataset, *, first_token: FirstPosition) -> str:
    """How alike the stream is before and after, how large the adjustments, and the error."""
    kept = from_position(block, first_token)
    pre, post = (kept[name].values.ravel() for name in ("resid_pre", "resid_post"))
    r = np.corrcoef(pre, post)[0, 1]
    sizes = [kept[name].std() / post.std() for name in ("attn_out", "mlp_out")]
    error = float(abs(kept["sum"] - kept["resid_post"]).max())
    off = f"off by {significant(error)} at most" if error else "exact"
    return (
        f"What enters and what leaves have a correlation of {number(r, 3)}. The standard deviation "
        f"of what attention adds is {share(float(sizes[0]))} of that of what leaves, the MLP's "
        f"{share(float(sizes[1]))}. The sum is {off}."
    )
