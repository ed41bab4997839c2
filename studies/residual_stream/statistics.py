"""Statistics of the study on the residual stream; see README.md."""

from typing import Annotated

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from microtome.errors import MicrotomeError
from microtome.options import (
    ALL_TOKENS,
    ONE_TEXT,
    Alpha,
    BlockParts,
    Count,
    Dimension,
    FirstPosition,
    Layer,
    Seed,
)
from microtome.statistics.corrections import holm
from microtome.statistics.correlation import correlation_matrix
from microtome.statistics.layers import stack_hidden_states
from microtome.statistics.positions import from_position

#: The parts of a block: what enters it, what is added to that, and what leaves it.
PARTS = ("resid_pre", "attn_out", "mlp_out", "resid_post")


def blocks(
    resid_pre: Annotated[xr.DataArray, ONE_TEXT, ALL_TOKENS],
    attn_out: xr.DataArray,
    mlp_out: xr.DataArray,
    resid_post: xr.DataArray,
    ln_final: xr.DataArray,
    *,
    dimension: Dimension,
    first_token: FirstPosition,
) -> xr.Dataset:
    """What every block returns, beside the hidden state of transformers and the sum of its parts.

    Returns:
        (`layer`,), float64. Norms over all tokens and dimensions: `hidden`, of the hidden state
        that transformers returns for a block's output; `output`, of that itself; `difference`, of
        the difference of the two, and `cosine`, their mean cosine similarity over tokens; `error`,
        of the sum of the parts, added up in the model's own precision, minus the output;
        `error_to_hidden`, the same minus the hidden state; `relative_error`, `error` as a share of
        `output`. Means over the tokens from `first_token` on: `resid_pre`, `attn_out`, `mlp_out`
        and `resid_post`, their norms; `added`, the norm of what attention and MLP add together, as
        a share of that of what leaves; `pearson`, the correlation of what the two add.
        `hidden_value` and `output_value`, (`layer`, `token`), the two at one dimension, with the
        tokens' coordinates; attribute `dimension`.

    Raises:
        MicrotomeError: a dimension that the residual stream lacks; no token at `first_token` or
            after.
    """
    d_model = resid_post.sizes["d_model"]
    if dimension >= d_model:
        raise MicrotomeError(
            f"dimension {dimension}: the residual stream has {d_model}; correct the `dimension` "
            f"option to one from 0 to {d_model - 1}"
        )
    hidden = stack_hidden_states(resid_pre, ln_final).values[1:]
    parts = dict(zip(PARTS, (resid_pre, attn_out, mlp_out, resid_post), strict=True))
    output = resid_post.values
    total = resid_pre.values + attn_out.values + mlp_out.values
    found = {
        "hidden": _norm(hidden),
        "output": _norm(output),
        "difference": _norm(hidden - output),
        "cosine": _cosines(hidden, output).mean(axis=-1),
        "error": _norm(total - output),
        "error_to_hidden": _norm(total - hidden),
    }
    found["relative_error"] = found["error"] / found["output"]
    kept = {
        site: from_position(values, first_token).values.astype(np.float64)
        for site, values in parts.items()
    }
    attn, mlp = kept["attn_out"], kept["mlp_out"]
    norms = {site: np.linalg.norm(values, axis=-1) for site, values in kept.items()}
    norms["added"] = np.linalg.norm(attn + mlp, axis=-1) / norms["resid_post"]
    norms["pearson"] = _products(_standardised(attn), _standardised(mlp))
    found |= {name: values.mean(axis=-1) for name, values in norms.items()}
    one = {"hidden_value": hidden[..., dimension], "output_value": output[..., dimension]}
    return xr.Dataset(
        {name: ("layer", values) for name, values in found.items()}
        | {name: (("layer", "token"), values) for name, values in one.items()},
        {**ln_final.coords, "layer": resid_post["layer"].values},
        {"dimension": dimension},
    )


def block(
    section: Annotated[xr.Dataset, ONE_TEXT, ALL_TOKENS], *, sites: BlockParts, layer: Layer
) -> xr.Dataset:
    """What enters a block, what attention and MLP add to it, and what leaves it.

    Returns:
        `resid_pre`, `attn_out`, `mlp_out`, `resid_post` and `sum`, that of the first three,
        (`token`, `d_model`), float32, with the tokens' coordinates; attribute `layer`.
    """
    found = section[list(PARTS)].drop_vars("layer", errors="ignore").load()
    total = found["resid_pre"] + found["attn_out"] + found["mlp_out"]
    return found.assign(sum=total).drop_attrs().assign_attrs(layer=layer)


def adjustments(
    block: xr.Dataset, *, n_outliers: Count, n_permutations: Count, seed: Seed, alpha: Alpha
) -> xr.Dataset:
    """Correlation of what attention and MLP add, over the dimensions of each token.

    The null permutes the dimensions of the MLP's adjustments, those of all tokens alike. p-values
    are two-sided, with the true order counted in, and corrected over tokens after Holm.

    Args:
        block: the statistic.
        n_outliers: how many dimensions `trimmed` leaves out.
        n_permutations: number of random permutations.
        seed: seed of the permutations.
        alpha: the level of significance.

    Returns:
        (`token`,): `pearson` and `spearman`; `trimmed`, Pearson's r without the dimensions in
        which the product of the two standardised values is largest in size; `others`, the mean
        Pearson's r with the MLP's adjustments of the other tokens; `null_low` and `null_high`,
        between which the middle 1 - alpha of Pearson's r lie under permutation; `p_pearson`,
        `p_spearman`, and `p_pearson_holm`, `p_spearman_holm`. NaN where all values are equal.
        Attributes `layer` and `alpha`.
    """
    attn, mlp = (block[site].values.astype(np.float64) for site in ("attn_out", "mlp_out"))
    n_tokens = len(attn)
    crossed = correlation_matrix(np.concatenate([attn, mlp]))[:n_tokens, n_tokens:]
    attn, mlp = _standardised(attn), _standardised(mlp)
    ranks = [_standardised(rankdata(values, axis=-1)) for values in (attn, mlp)]
    pearson, spearman = _products(attn, mlp), _products(*ranks)
    nulls = np.empty((2, n_permutations, n_tokens))
    random = np.random.default_rng(seed)
    for i in range(n_permutations):
        order = random.permutation(attn.shape[-1])
        nulls[0, i] = _products(attn, mlp[:, order])
        nulls[1, i] = _products(ranks[0], ranks[1][:, order])
    middle = [alpha / 2, 1 - alpha / 2]
    low, high = np.quantile(nulls[0], middle, axis=0)
    found = {
        "pearson": pearson,
        "spearman": spearman,
        "trimmed": _trimmed(attn, mlp, n_outliers),
        "others": (crossed.sum(axis=1) - np.diag(crossed)) / (n_tokens - 1),
        "null_low": low,
        "null_high": high,
    }
    for name, r, null in zip(("pearson", "spearman"), (pearson, spearman), nulls, strict=True):
        # Equal up to rounding counts as reached.
        reached = (np.abs(null) >= np.abs(r) * (1 - 1e-12)).sum(axis=0)
        p = np.where(np.isnan(r), np.nan, (1 + reached) / (1 + n_permutations))
        found |= {f"p_{name}": p, f"p_{name}_holm": holm(p)}
    return xr.Dataset(
        {name: ("token", values) for name, values in found.items()},
        block.coords,
        {"layer": block.attrs["layer"], "alpha": alpha},
    )


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine similarities along the last axis, in float64."""
    units = [
        values / np.linalg.norm(values, axis=-1, keepdims=True)
        for values in (first.astype(np.float64), second.astype(np.float64))
    ]
    return (units[0] * units[1]).sum(axis=-1)


def _norm(values: np.ndarray) -> np.ndarray:
    """The norm over all tokens and dimensions, (layer, token, d_model) to (layer,)."""
    return np.linalg.norm(values.astype(np.float64), axis=(1, 2))


def _standardised(rows: np.ndarray) -> np.ndarray:
    """Rows of mean 0 and norm 1; NaN where all values are equal."""
    centred = rows - rows.mean(axis=-1, keepdims=True)
    norm = np.linalg.norm(centred, axis=-1, keepdims=True)
    return np.divide(centred, norm, out=np.full_like(centred, np.nan), where=norm > 0)


def _products(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The correlation of each two standardised rows, (…, row, value) to (…, row)."""
    return np.einsum("...d,...d->...", first, second)


def _trimmed(first: np.ndarray, second: np.ndarray, n: int) -> np.ndarray:
    """Pearson's r of each two standardised rows without the n values that weigh most in it.

    Raises:
        MicrotomeError: fewer than three values are left.
    """
    d_model = first.shape[-1]
    if d_model - n < 3:
        raise MicrotomeError(
            f"n_outliers {n}: the residual stream has {d_model} dimensions; correct the option to "
            f"{d_model - 3} or less"
        )
    kept = np.argsort(np.abs(first * second), axis=-1, kind="stable")[:, :-n]
    return _products(
        *(_standardised(np.take_along_axis(rows, kept, axis=-1)) for rows in (first, second))
    )
