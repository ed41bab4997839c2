"""The fit of a sigmoid against scipy, and what it says where there is none."""

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import curve_fit, least_squares

from microtome.statistics.sigmoid import fit_sigmoid, sigmoid_demonstration


def curve(x, a, x0, k, b):
    return a / (1 + np.exp(-k * (x - x0))) + b


def test_a_fit_is_what_scipy_finds_from_the_notebooks_start():
    data = sigmoid_demonstration(50, 1.0, 3)
    x, y = data["x"].values, data["y"].values
    np.testing.assert_allclose(x, np.linspace(-10, 10, 50))
    noise = y - curve(x, 10, 0, 1, 2)
    assert noise.std() == pytest.approx(1, abs=0.3)
    found = fit_sigmoid(x, y, 0.1)
    estimate, covariance = curve_fit(curve, x, y, [max(y), np.median(x), 1, min(y)])
    np.testing.assert_allclose(found["estimate"], estimate, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["std_error"], np.sqrt(np.diag(covariance)), rtol=1e-4)
    # The same by hand: the Jacobian at the least sum of squares.
    by_hand = least_squares(lambda p: curve(x, *p) - y, [10, 0, 1, 2], xtol=1e-12, ftol=1e-12)
    residual = by_hand.fun
    covariance = np.linalg.inv(by_hand.jac.T @ by_hand.jac) * (residual @ residual) / 46
    half = stats.t.ppf(0.95, 46) * np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(found["estimate"], by_hand.x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["low"], by_hand.x - half, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["high"], by_hand.x + half, rtol=1e-4, atol=1e-5)
    r = np.corrcoef(y, y + residual)[0, 1]  # of the data and the fit
    assert found["r_squared"].item() == pytest.approx(r**2)
    lag = (residual[1:] * residual[:-1]).sum() / (residual**2).sum()
    assert found["residual_autocorrelation"].item() == pytest.approx(lag, rel=1e-4)
    assert found.attrs["alpha"] == 0.1


@pytest.mark.parametrize("truth", [(-10.3, 20.5, 0.9, 4.4), (0.02, 6, 1.5, -3), (8, 12.5, 0.4, -7)])
def test_what_lies_on_a_sigmoid_is_found(truth):
    x = np.arange(29)
    found = fit_sigmoid(x, curve(x, *truth), 0.05)
    np.testing.assert_allclose(found["estimate"], truth, rtol=1e-4)
    assert found["r_squared"].item() == pytest.approx(1)


def test_what_no_sigmoid_fits_is_not_a_number():
    x = np.arange(29)
    flat = fit_sigmoid(x, np.full(29, 0.3), 0.05)
    few = fit_sigmoid(x[:4], np.array([1.0, 2.0, 4.0, 5.0]), 0.05)
    endless = fit_sigmoid(x, np.exp(x.astype(float)), 0.05)  # half its height is never reached
    for found in (flat, few, endless):
        assert np.isnan(found["low"]).all()
    for found in (flat, few):
        assert np.isnan(found.to_dataarray()).all()
    step = fit_sigmoid(x, np.where(x < 14, -1.0, 1.0), 0.05)  # any large slope will do
    assert step["estimate"].sel(parameter="A").item() == pytest.approx(2)
    assert 13 < step["estimate"].sel(parameter="x0").item() < 14
