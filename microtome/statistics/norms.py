"""Norms of activations, token by token.

Source: Mike X Cohen, "Least squares part 4: modeling GPT activations".
"""

import numpy as np
import xarray as xr

from microtome.errors import MicrotomeError
from microtome.statistics.distributions import freedman_diaconis
from microtome.statistics.positions import from_position


def log_norms(section: xr.Dataset, site: str) -> xr.Dataset:
    """Natural logarithm of the L2 norm of each token's activation.

    Args:
        section: the activations of one layer.
        site: the site.

    Returns:
        `log_norm`, (`token`,), float64, with the token coordinates.

    Raises:
        MicrotomeError: an activation is zero in every dimension.
    """
    values = section[site].load().astype(np.float64)
    norm: xr.DataArray = xr.ufuncs.sqrt((values**2).sum(values.dims[1:])).drop_attrs()
    if not norm.all():
        place = f"layer {section.attrs['layer']}, " if "layer" in section.attrs else ""
        raise MicrotomeError(
            f"{place}site {site}: zero at token "
            f"{norm.values.argmin()}, which has no log norm; is this model trained?"
        )
    return xr.ufuncs.log(norm).to_dataset(name="log_norm")


def norm_histograms(norms: xr.Dataset, first_token: int) -> xr.Dataset:
    """Histograms of the log norms of each layer.

    Args:
        norms: `log_norm`, (`layer`, `token`), with the token coordinates.
        first_token: the position of the first token to count. Token 0 is often an attention sink.

    Returns:
        `count` over `left_edge`, (`layer`, `bin`), with Freedman-Diaconis bins, padded with NaN;
        attribute `first_token`.

    Raises:
        MicrotomeError: no token is left, or rows are means and have no position.
    """
    rows = from_position(norms, first_token)["log_norm"].values
    counts, left_edges = freedman_diaconis(rows)
    return xr.Dataset(
        {"count": (("layer", "bin"), counts), "left_edge": (("layer", "bin"), left_edges)},
        {"layer": norms["layer"].values},
        {"first_token": first_token},
    )
