"""What a nonlinearity does to values, and what it is good for; of no model.

Source: Mike X Cohen, "50 ML projects to understand LLMs", project 42, the demos before part 1.
"""

import numpy as np
import xarray as xr
from scipy.special import erf


def gelu_demonstration(n: int, limit: float) -> xr.Dataset:
    """What GELU, x · Φ(x) with the normal distribution Φ, does to evenly spaced values.

    Args:
        n: how many values.
        limit: the largest of them; the smallest is its negative.

    Returns:
        (`sample`,): `raw`, `gelu` of it, and `squared_difference` of the two.
    """
    raw = np.linspace(-limit, limit, n)
    gelu = raw * (1 + erf(raw / np.sqrt(2))) / 2
    columns = {"raw": raw, "gelu": gelu, "squared_difference": (raw - gelu) ** 2}
    return xr.Dataset({name: ("sample", values) for name, values in columns.items()})


def linear_separation_demonstration(n: int, noise: float, seed: int) -> xr.Dataset:
    """Two noisy rings around the origin that no line parts, and the radius, which does.

    Args:
        n: points per ring, at equal angles once around.
        noise: standard deviation of what is added to x and to y.
        seed: of the random draw.

    Returns:
        `x`, `y` and `radius`, (`ring`, `point`); the rings `inner` and `outer` have radius 1
        and 2 before the noise.
    """
    angle = 2 * np.pi * np.arange(n) / n
    circle = np.stack([np.cos(angle), np.sin(angle)])
    rings = np.array([1.0, 2.0])[:, None, None] * circle
    rings += np.random.default_rng(seed).normal(scale=noise, size=rings.shape)
    x, y = rings[:, 0], rings[:, 1]
    columns = {"x": x, "y": y, "radius": np.hypot(x, y)}
    return xr.Dataset(
        {name: (("ring", "point"), values) for name, values in columns.items()},
        {"ring": ["inner", "outer"]},
    )
