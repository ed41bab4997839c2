"""Statistics of the study on effective dimensionality; see README.md."""

from typing import Annotated

import numpy as np
import xarray as xr
from scipy import stats

from microtome.options import (
    ALL_TOKENS,
    NEXT_TOKEN,
    ONE_TEXT,
    Alpha,
    Count,
    FirstPosition,
    Layer,
    NotNegative,
    Percent,
    Positive,
    Seed,
    Site,
)
from microtome.statistics import dimensionality as method
from microtome.statistics.distributions import freedman_diaconis
from microtome.statistics.layers import stack_hidden_states
from microtome.statistics.positions import from_position

#: The largest share of a measure that rounding can make.
ROUNDING = 1e-6


def concept(*, n: Count, length: Positive, noise: NotNegative, seed: Seed) -> xr.Dataset:
    """Points on a line, and points of one effective dimension; of no model.

    Returns:
        `x`, (`point`,), and `y`, (`kind`, `point`); `participation_ratio`, (`kind`,); attribute
        `length`.
    """
    return method.noisy_line_demonstration(n, length, noise, seed)


def most_likely(logits: Annotated[xr.DataArray, ALL_TOKENS, NEXT_TOKEN]) -> xr.Dataset:
    """Log-probability of the most likely next token, after each token of the first text.

    Returns:
        `log_probability` (natural logarithm, float64), (`token`,), with the tokens' coordinates;
        its histogram with the bins of Freedman and Diaconis, `density` and `left_edge`, (`bin`,).
    """
    first = logits.isel(token=logits["sequence"].values == logits["sequence"].values[0])
    # Row by row: in float64, all of them would take much room.
    highest = np.array(
        [-np.log(np.exp(row.astype(np.float64) - row.max()).sum()) for row in first.values]
    )
    (density,), (left_edges,) = freedman_diaconis([highest], density=True)
    found = {
        "log_probability": ("token", highest),
        "density": ("bin", density),
        "left_edge": ("bin", left_edges),
    }
    return xr.Dataset(found, first.coords)


def spectrum(
    section: Annotated[xr.Dataset, ONE_TEXT, ALL_TOKENS],
    *,
    site: Site,
    layer: Layer,
    percent: Percent,
    first_token: FirstPosition,
) -> xr.Dataset:
    """How much variance each principal component of the tokens holds, at one layer.

    Returns:
        `explained` and `cumulative`, in percent of all variance, (`tokens`, `component`), tokens
        `all` and `rest`, without the first ones; components 1, 2, …, NaN where the rest has fewer.
        `n_components` that hold more than `percent`, (`tokens`,). Attributes `site`, `layer`,
        `percent` and `first_token`.
    """
    spectra = []
    for tokens in (section, from_position(section, first_token)):
        variances = method.component_variances(
            tokens[site].values.reshape(tokens.sizes["token"], -1)
        )
        explained = 100 * variances / variances.sum()
        found = {
            "explained": ("component", explained),
            "cumulative": ("component", explained.cumsum()),
            "n_components": method.components_needed(variances, percent),
        }
        spectra.append(xr.Dataset(found, {"component": np.arange(1, len(explained) + 1)}))
    options = {"site": site, "layer": layer, "percent": percent, "first_token": first_token}
    both = xr.concat(spectra, xr.Variable("tokens", ["all", "rest"]), join="outer")
    return both.assign_attrs(options)


def dimensionality(
    resid_pre: Annotated[xr.DataArray, ALL_TOKENS],
    ln_final: xr.DataArray,
    *,
    percent: Percent,
    first_token: FirstPosition,
) -> xr.Dataset:
    """How many dimensions the tokens of each text take up, in every hidden state.

    Returns:
        (`tokens`, `sequence`, `hidden`), tokens `all` and `rest`, without the first ones: `rank`,
        `n_components` that hold more than `percent` of the variance, `participation_ratio`;
        (`tokens`, `sequence`): `n_tokens`, `n_unique`. Attributes `percent` and `first_token`.
    """
    return method.dimensionality(stack_hidden_states(resid_pre, ln_final), percent, first_token)


def comparison(
    dimensionality: Annotated[xr.Dataset, ONE_TEXT],
    shuffled_dimensionality: xr.Dataset,
    *,
    alpha: Alpha,
) -> xr.Dataset:
    """The text beside its shuffles, in every hidden state.

    Returns:
        (`measure`, `tokens`, `hidden`), measures `n_components` and `participation_ratio`:
        `observed`, of the text; `shuffled`, the geometric mean of its shuffles; `low` and `high`,
        between which a further shuffle lies with the probability 1 - `alpha`, if the logarithms of
        shuffles are normally distributed; NaN of a single shuffle; `outside`, 1 where the text is
        not between them, else 0. Attributes `alpha` and `n_shuffles`.
    """
    observed, shuffled = (
        data[["n_components", "participation_ratio"]].to_dataarray("measure")
        for data in (dimensionality.isel(sequence=0, drop=True), shuffled_dimensionality)
    )
    n = shuffled.sizes["sequence"]
    logarithms = xr.apply_ufunc(np.log, shuffled)
    mean, half = logarithms.mean("sequence"), np.nan
    if n > 1:
        sd = logarithms.std("sequence", ddof=1)
        half = stats.t.ppf(1 - alpha / 2, n - 1) * np.sqrt(1 + 1 / n) * sd
    # Shuffled embeddings are the same vectors: what they differ by is rounding.
    outside = np.abs(np.log(observed) - mean) > half + ROUNDING
    found = {"shuffled": mean, "low": mean - half, "high": mean + half}
    return xr.Dataset(
        {"observed": observed}
        | {name: np.exp(values) for name, values in found.items()}
        | {"outside": outside.astype(np.int8)},
        attrs={"alpha": alpha, "n_shuffles": n},
    )
