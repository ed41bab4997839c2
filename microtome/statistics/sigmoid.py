"""A sigmoid fitted to a profile: where it rises or falls, how steeply, and from what to what.

Source: Mike X Cohen, "50 ML projects to understand LLMs", project 32, part 4.
"""

import warnings

import numpy as np
import xarray as xr
from scipy import stats
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.special import expit

from microtome.errors import MicrotomeError
from microtome.statistics.distributions import is_constant

#: The parameters of `sigmoid`, in order.
PARAMETERS = ("A", "x0", "k", "b")
#: Their values in the simulated data.
TRUTH = (10.0, 0.0, 1.0, 2.0)


def sigmoid(
    x: np.ndarray, height: float, midpoint: float, steepness: float, start: float
) -> np.ndarray:
    """A / (1 + exp(-k (x - x0))) + b.

    Args:
        x: of any shape.
        height: A, what is climbed from one end to the other; negative where it falls.
        midpoint: x0, where half of it is climbed.
        steepness: k, per unit of x.
        start: b, the value far below x0, where k is above 0.

    Returns:
        In the shape of x.
    """
    return height * expit(steepness * (x - midpoint)) + start


def fit_sigmoid(x: np.ndarray, y: np.ndarray, alpha: float) -> xr.Dataset:
    """Fit a sigmoid by least squares.

    A curve with (A, k, b) is also one with (-A, -k, A + b); the one with k above 0 is given.
    The intervals are by Student's t, from the curvature of the sum of squares. They hold for
    independent residuals of equal variance. Where the residuals go together, as those of
    neighbouring layers do, the intervals are too narrow.

    Args:
        x: (point,).
        y: (point,).
        alpha: 1 minus the intervals' confidence.

    Returns:
        `estimate`, `std_error`, `low` and `high`, (`parameter`,), and `r_squared`, the share of the
        variance, and `residual_autocorrelation`, of neighbouring residuals. All is NaN where there
        is no fit: the search does not converge, all y are equal, or there are too few points.
        Where y does not determine the parameters, `std_error`, `low` and `high` are NaN. Attribute
        `alpha`.
    """
    y = y.astype(np.float64)
    found = None if len(y) <= len(PARAMETERS) or is_constant(y) else _search(x, y)
    n = len(PARAMETERS)
    estimate, error = (np.full(n, np.nan) for _ in range(2))
    r_squared = autocorrelation = np.nan
    if found is not None:
        estimate, covariance = found
        error = np.sqrt(np.diag(covariance)) if np.isfinite(covariance).all() else error
        residual = y - sigmoid(x, *estimate)
        squares = residual @ residual
        r_squared = 1 - squares / np.sum((y - y.mean()) ** 2)
        autocorrelation = residual[1:] @ residual[:-1] / squares if squares else np.nan
    half = stats.t.ppf(1 - alpha / 2, max(len(y) - n, 1)) * error
    columns = {
        "estimate": estimate,
        "std_error": error,
        "low": estimate - half,
        "high": estimate + half,
    }
    return xr.Dataset(
        {name: ("parameter", values) for name, values in columns.items()}
        | {"r_squared": r_squared, "residual_autocorrelation": autocorrelation},
        {"parameter": list(PARAMETERS)},
        {"alpha": alpha},
    )


def sigmoid_demonstration(n: int, noise: float, seed: int) -> xr.Dataset:
    """Data around a sigmoid.

    Args:
        n: number of points, evenly spaced from -10 to 10.
        noise: standard deviation of the normal noise.
        seed: seed of the random draw.

    Returns:
        `x` and `y`, (`point`,), and `truth`, (`parameter`,).

    Raises:
        MicrotomeError: noise that leaves no number.
    """
    x = np.linspace(-10, 10, n)
    with np.errstate(over="ignore", invalid="ignore"):
        y = sigmoid(x, *TRUTH) + noise * np.random.default_rng(seed).standard_normal(n)
        sizes = y @ y
    if not np.isfinite(sizes):
        raise MicrotomeError(f"noise {noise}: y is too large; give a smaller `noise`")
    return xr.Dataset(
        {"x": ("point", x), "y": ("point", y), "truth": ("parameter", np.array(TRUTH))},
        {"parameter": list(PARAMETERS)},
    )


def _search(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The parameters with the least sum of squares and their covariance; None if none are found.

    The first start is the notebook's, the second one knows in which direction y goes.
    """
    middle = np.median(x)
    best, least = None, np.inf
    for guess in ([y.max(), middle, 1, y.min()], [y[-1] - y[0], middle, 1, y[0]]):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", OptimizeWarning)  # the covariance is infinite
                estimate, covariance = curve_fit(sigmoid, x, y, guess)
        except RuntimeError:  # so many steps, and no minimum
            continue
        squares = float(np.sum((y - sigmoid(x, *estimate)) ** 2))
        if squares < least * (1 - 1e-9):
            best, least = (estimate, covariance), squares
    if best is None or best[0][2] >= 0:
        return best
    height, midpoint, steepness, start = best[0]
    mirror = np.diag([-1.0, 1, -1, 1])
    mirror[3, 0] = 1  # the new start is the old one plus the height
    return np.array([-height, midpoint, -steepness, start + height]), mirror @ best[1] @ mirror.T
