"""Regression: a token's norm predicted from those of the two tokens before it; lines.

Source: Mike X Cohen, "Least squares part 4: modeling GPT activations".
"""

import numpy as np
import statsmodels.api as sm
import xarray as xr
from statsmodels.iolib.summary import Summary
from statsmodels.regression.linear_model import RegressionResults
from statsmodels.stats.diagnostic import acorr_ljungbox

from microtome.errors import MicrotomeError
from microtome.statistics.distributions import is_constant
from microtome.statistics.positions import require_all_tokens

TERMS = ("const", "t-1", "t-2")
LAGS = TERMS[1:]
#: With fewer rows, statsmodels' tests of the residuals are undefined or mere noise.
FEWEST_ROWS = 20


def regression(norms: xr.Dataset, first_token: int) -> xr.Dataset:
    """Ordinary least squares of y[t] = b0 + b1 y[t-1] + b2 y[t-2] + error, over tokens t.

    Standard errors and p-values are given twice: as in the notebook, for independent errors of
    equal variance, and after Newey and West (`…_hac`), which allow for autocorrelation and unequal
    variance. Both p-values are from the t distribution. The tokens of several texts are pooled; a
    token's predecessors are always from its own text.

    Args:
        norms: `log_norm`, (`token`,), with the token coordinates.
        first_token: position of the first t in its text, 2 or more.

    Returns:
        `beta`, `std_error`, `t`, `p`, `std_error_hac`, `p_hac` and `beta_numpy` (the same betas
        from numpy's least squares), (`term`,); `r_squared`; `ljung_box` and `p_ljung_box`, the
        test for autocorrelation of the residuals, with two degrees of freedom less for the two
        lags. Attributes: `n` rows, `maxlags` of Newey and West, floor(4 (n/100)^(2/9)),
        `ljung_box_lags`, and `summary`, the one of statsmodels without date and time.

    Raises:
        MicrotomeError: a text is too short or lacks tokens; the first token has no two before it;
            the norms are all equal.
    """
    y, design = _lagged(norms, first_token)
    n = len(y)
    if is_constant(y):
        raise MicrotomeError(
            "the log norms of all tokens are equal, which leaves nothing to predict; give the "
            "study other `stimuli`"
        )
    model = sm.OLS(y, design)
    fit = model.fit()
    maxlags = _maxlags(n)
    robust = _newey_west(model, maxlags)
    lags = min(10, n // 5)
    ljung_box = acorr_ljungbox(fit.resid, lags=[lags], model_df=len(LAGS)).iloc[0]
    columns = {
        "beta": fit.params,
        "std_error": fit.bse,
        "t": fit.tvalues,
        "p": fit.pvalues,
        "std_error_hac": robust.bse,
        "p_hac": robust.pvalues,
        "beta_numpy": np.linalg.lstsq(design, y, rcond=None)[0],
    }
    summary = fit.summary(
        yname="log norm[t]", xname=list(TERMS), title="Least squares of log norms"
    )
    return xr.Dataset(
        {name: ("term", values) for name, values in columns.items()}
        | {
            "r_squared": fit.rsquared,
            "ljung_box": ljung_box["lb_stat"],
            "p_ljung_box": ljung_box["lb_pvalue"],
        },
        {"term": list(TERMS)},
        {"n": n, "maxlags": maxlags, "ljung_box_lags": lags, "summary": _undated(summary)},
    )


def autoregression(norms: xr.Dataset, first_token: int, alpha: float) -> xr.Dataset:
    """Fit the regression at every layer.

    Args:
        norms: `log_norm`, (`layer`, `token`), with the token coordinates.
        first_token: as in `regression`.
        alpha: the level of significance, for each beta on its own.

    Returns:
        As `regression`, with a first dimension `layer` and without the constant; also
        `significant` and `significant_hac`, (`layer`, `term`), 0 or 1; attribute `alpha`.

    Raises:
        MicrotomeError: as in `regression`.
    """
    layers = [
        regression(norms.sel(layer=layer), first_token).sel(term=list(LAGS))
        for layer in norms["layer"].values
    ]
    attributes = {name: value for name, value in layers[0].attrs.items() if name != "summary"}
    whole = xr.concat([layer.drop_attrs() for layer in layers], norms["layer"])
    return whole.assign(
        significant=(whole["p"] < alpha).astype(np.int8),
        significant_hac=(whole["p_hac"] < alpha).astype(np.int8),
    ).assign_attrs(attributes, alpha=alpha)


def line(x: np.ndarray, y: np.ndarray, alpha: float) -> dict[str, float]:
    """Ordinary least squares of y = const + slope x + error, with intervals of the slope.

    Args:
        x: (value,), in an order in which errors may be correlated with the ones before.
        y: (value,).
        alpha: intervals hold 1 - alpha.

    Returns:
        `const`, `slope`, `r_squared`; the slope's interval `low`, `high` for independent errors of
        equal variance, and `low_hac`, `high_hac` after Newey and West, as in `regression`; `p_hac`,
        two-sided. Of values that are all equal only const and slope, the rest is NaN.
    """
    if is_constant(y):
        unknown = ("r_squared", "low", "high", "low_hac", "high_hac", "p_hac")
        return {"const": float(y.mean()), "slope": 0.0} | dict.fromkeys(unknown, np.nan)
    model = sm.OLS(y, sm.add_constant(x))
    fit = model.fit()
    robust = _newey_west(model, _maxlags(len(y)))
    low, high = fit.conf_int(alpha)[1]
    low_hac, high_hac = robust.conf_int(alpha)[1]
    found = {"const": fit.params[0], "slope": fit.params[1], "r_squared": fit.rsquared}
    found |= {"low": low, "high": high, "low_hac": low_hac, "high_hac": high_hac}
    return {name: float(value) for name, value in (found | {"p_hac": robust.pvalues[1]}).items()}


def _maxlags(n: int) -> int:
    """How many lags of n errors Newey and West's covariance allows for."""
    return int(4 * (n / 100) ** (2 / 9))


def _newey_west(model: sm.OLS, maxlags: int) -> RegressionResults:
    """The fit with standard errors after Newey and West, and p-values of the t distribution."""
    return model.fit(
        cov_type="HAC", cov_kwds={"maxlags": maxlags, "use_correction": True}, use_t=True
    )


def _lagged(norms: xr.Dataset, first_token: int) -> tuple[np.ndarray, np.ndarray]:
    """The predicted values, (row,), and the design matrix, (row, term)."""
    if first_token < len(LAGS):
        raise MicrotomeError(
            f"first_token: token {first_token} has no two tokens before it; take 2 or more"
        )
    require_all_tokens(norms, "the regression on the two tokens before")
    rows = np.flatnonzero(norms["position"].values >= first_token)
    if len(rows) < FEWEST_ROWS:
        raise MicrotomeError(
            f"the regression wants {FEWEST_ROWS} tokens or more and has {len(rows)} from token "
            f"{first_token} on; give the study longer `stimuli`, or a smaller `first_token`"
        )
    y = norms["log_norm"].values
    return y[rows], np.stack([np.ones(len(rows)), y[rows - 1], y[rows - 2]], axis=1)


def _undated(summary: Summary) -> str:
    """The text of a summary without date and time, on which a product must not depend."""
    table = summary.tables[0]
    left = [row[:2] for row in table if row[0].data.strip() not in ("Date:", "Time:")]
    for row, cells in zip(table, left, strict=False):
        row[:2] = cells
    del table[len(left) :]  # what stood to the right of the last two rows was blank
    return summary.as_text()
