"""Statistics of the study on similarities of hidden states; see README.md."""

from typing import Annotated

import numpy as np
import xarray as xr
from scipy import stats

from microtome.errors import MicrotomeError
from microtome.options import ALL_TOKENS, ONE_TEXT, Alpha, Count, FirstPosition
from microtome.statistics import similarity
from microtome.statistics.correlation import rank_correlation
from microtome.statistics.jackknife import correlation_interval
from microtome.statistics.layers import stack_hidden_states
from microtome.statistics.positions import at_position, from_position


def descriptives(
    resid_pre: Annotated[xr.DataArray, ALL_TOKENS], ln_final: xr.DataArray
) -> xr.Dataset:
    """Mean, L1 mean and standard deviation of each token's vector, in every hidden state.

    Returns:
        (`hidden`, `token`), float64: `mean`, over the dimensions; `mean_absolute`, that of the
        absolute values; `sd`, with n - 1 in its denominator.
    """
    states = stack_hidden_states(resid_pre, ln_final)
    found = []
    for state in states:
        values = state.astype(np.float64)
        moments = {"mean": values.mean("d_model"), "mean_absolute": abs(values).mean("d_model")}
        found.append(xr.Dataset(moments | {"sd": values.std("d_model", ddof=1)}))
    return xr.concat(found, states["hidden"])


def layer_distances(layer_similarity: xr.Dataset) -> xr.Dataset:
    """The number of blocks between each two hidden states.

    Returns:
        `distance`, (`hidden`, `other`).
    """
    hidden = layer_similarity["hidden"].values
    place = np.arange(len(hidden))
    distance = np.abs(place[:, None] - place)
    return xr.Dataset(
        {"distance": (("hidden", "other"), distance)}, {"hidden": hidden, "other": hidden}
    )


def distance_correlation(
    resid_pre: Annotated[xr.DataArray, ONE_TEXT, ALL_TOKENS],
    ln_final: xr.DataArray,
    *,
    first_token: FirstPosition,
    alpha: Alpha,
) -> xr.Dataset:
    """Rank correlation of the similarity of two hidden states with their distance.

    Pairs share hidden states: the interval of a token's correlation leaves out each hidden state
    in turn (jackknife), with all its pairs. That of the mean takes tokens for independent, which
    those of one text are not.

    Returns:
        (`token`,), of all tokens: `rho`, Spearman's; `low` and `high`, the ends of its interval;
        `without_last`, rho of all hidden states but the last, which alone is normed. Of the tokens
        from the first one on: `mean` of rho, `mean_low` and `mean_high` by Student's t. Attributes
        `first_token` and `alpha`.

    Raises:
        MicrotomeError: fewer than two tokens are left for the mean.
    """
    states = stack_hidden_states(resid_pre, ln_final)
    counted = states["position"].values >= first_token
    if counted.sum() < 2:
        raise MicrotomeError(
            f"first_token {first_token}: the text has {len(counted)} tokens, and a mean wants two "
            "or more; correct the `first_token` option"
        )
    matrices = similarity.layer_similarity(states, states.sizes["token"])["cosine"]
    n, place = states.sizes["hidden"], np.arange(states.sizes["hidden"])
    first, second = np.triu_indices(n, 1)
    cosine, distance = matrices.values[:, first, second], (second - first)[None]
    without = np.stack(
        [
            rank_correlation(cosine[:, kept], distance[:, kept])
            for kept in ((first != i) & (second != i) for i in place)
        ]
    )
    rho = rank_correlation(cosine, distance)
    low, high = correlation_interval(rho, without, alpha)
    mean, error = rho[counted].mean(), stats.sem(rho[counted])
    half = stats.t.ppf(1 - alpha / 2, counted.sum() - 1) * error
    each = {"rho": rho, "low": low, "high": high, "without_last": without[-1]}
    return xr.Dataset(
        {name: ("token", values) for name, values in each.items()}
        | {"mean": mean, "mean_low": mean - half, "mean_high": mean + half},
        {name: matrices[name] for name in ("position", "token_id", "text")},
        {"first_token": first_token, "alpha": alpha},
    )


def similarity_controls(
    resid_pre: Annotated[xr.DataArray, ALL_TOKENS],
    ln_final: xr.DataArray,
    *,
    first_token: FirstPosition,
    n_dimensions: Count,
) -> xr.Dataset:
    """Mean similarity of two tokens, beside what it is without what all tokens share.

    Returns:
        (`hidden`,), mean cosines of two tokens of one text, or of two texts for `across` (NaN if
        there is one text): `within`; `across`; `without_largest`, without the dimensions of the
        largest mean square; `centred`, with the mean of all tokens subtracted; `permuted`, what is
        expected with each token's dimensions in random order, and `permuted_sd` of one such cosine;
        `with_first`, of each text's first token with the others. `largest_share`, what the
        dimensions of the largest mean square have of the sum of squares. Attributes `first_token`
        and `n_dimensions`.

    Raises:
        MicrotomeError: no text has two tokens left, or the model has too few dimensions.
    """
    states = stack_hidden_states(resid_pre, ln_final)
    if n_dimensions >= states.sizes["d_model"]:
        raise MicrotomeError(
            f"n_dimensions {n_dimensions}: the model has {states.sizes['d_model']} dimensions; "
            "correct the `n_dimensions` option"
        )
    found = [_controls(state, first_token, n_dimensions) for state in states]
    columns = {name: ("hidden", [each[name] for each in found]) for name in found[0]}
    attributes = {"first_token": first_token, "n_dimensions": n_dimensions}
    return xr.Dataset(columns, {"hidden": states["hidden"].values}, attributes)


def layer_descriptives(
    descriptives: xr.Dataset, *, first_token: FirstPosition, block: Count, alpha: Alpha
) -> xr.Dataset:
    """Averages of the tokens' descriptives, and how mean and standard deviation go together.

    Tokens that follow each other are not independent: the interval of the correlation leaves out
    blocks of them in turn (jackknife).

    Args:
        descriptives: the statistic.
        first_token: the position of the first token of each text that takes part.
        block: the number of tokens in a block, within a text.
        alpha: 0.05 for an interval of 95 %.

    Returns:
        (`hidden`,): `mean`, `mean_absolute`, `sd`, averaged over the tokens; `ratio`, the mean of
        `mean_absolute` / `sd`; `sd_first`, the standard deviation of the texts' first tokens,
        averaged; `rho`, the rank correlation of the tokens' mean and sd, and the ends `low` and
        `high` of its interval. Attributes `first_token`, `block` and `alpha`.

    Raises:
        MicrotomeError: the texts have fewer than three blocks.
    """
    kept = from_position(descriptives, first_token)
    mean, sd = kept["mean"].values, kept["sd"].values
    numbers = kept["sequence"].values, (kept["position"].values - first_token) // block
    blocks = np.unique(np.stack(numbers), axis=1, return_inverse=True)[1].ravel()
    if blocks.max() < 2:
        raise MicrotomeError(
            f"block {block}: the texts have {blocks.max() + 1} blocks of so many tokens, and an "
            "interval wants three or more; correct the `block` option"
        )
    rho = rank_correlation(mean, sd)
    without = np.stack(
        [rank_correlation(mean[:, blocks != i], sd[:, blocks != i]) for i in np.unique(blocks)]
    )
    low, high = correlation_interval(rho, without, alpha)
    each = kept[["mean", "mean_absolute", "sd"]].assign(ratio=kept["mean_absolute"] / kept["sd"])
    first = at_position(descriptives["sd"], 0).mean("sequence").values
    found = {"sd_first": first, "rho": rho, "low": low, "high": high}
    return (
        each.mean("token")
        .assign({name: ("hidden", values) for name, values in found.items()})
        .assign_attrs(first_token=first_token, block=block, alpha=alpha)
    )


def _controls(state: xr.DataArray, first_token: int, n_dimensions: int) -> dict[str, float]:
    """The similarities of `similarity_controls` in one hidden state, (`token`, `d_model`)."""
    kept = from_position(state, first_token)
    vectors, text = kept.values.astype(np.float64), kept["sequence"].values
    if len(np.unique(text)) == len(text):
        raise MicrotomeError(
            f"first_token {first_token}: no text has two tokens from there on; correct the "
            "`first_token` option"
        )
    squares = (vectors**2).mean(axis=0)
    largest = np.argsort(squares)[-n_dimensions:]
    units, d = _units(vectors), vectors.shape[1]
    within, across = similarity.mean_products(units, text)
    # Of two vectors in random order, the product of their means is left.
    mean, variance = (
        d**0.5 * units.mean(axis=1, keepdims=True),
        d * units.var(axis=1, keepdims=True),
    )
    starts = at_position(state, 0)
    first = _units(starts.values.astype(np.float64))[np.searchsorted(starts["sequence"], text)]
    return {
        "within": within,
        "across": across,
        "without_largest": similarity.mean_products(
            _units(np.delete(vectors, largest, axis=1)), text
        )[0],
        "centred": similarity.mean_products(_units(vectors - vectors.mean(axis=0)), text)[0],
        "permuted": similarity.mean_products(mean, text)[0],
        "permuted_sd": (similarity.mean_products(variance, text)[0] / (d - 1)) ** 0.5,
        "with_first": (units * first).sum(axis=1)[kept["position"].values > 0].mean(),
        "largest_share": squares[largest].sum() / squares.sum(),
    }


def _units(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1 in the directions of others, (…, d)."""
    units: np.ndarray = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return units
