"""Distributions of values: histograms of activations, of weights, and of a whole corpus.

Sources: Mike X Cohen, "50 ML projects to understand LLMs", project 42, parts 1 to 4 and the demo
of GELU; "LLM breakdown 4/6: Transformer outputs (hidden states)", demo 1.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import erf

from microtome.errors import MicrotomeError
from microtome.models.stored import StoredMLP
from microtome.statistics.positions import require_one_text, require_positions, rows_at
from microtome.statistics.streamed import Kept, OfValues

#: The most bins of a histogram. The rule of Freedman and Diaconis itself has no bound.
MOST_BINS = 10_000


def histograms(
    samples: Iterable[np.ndarray], n_edges: int, limit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Densities of values between ±limit; each integrates to 1, whatever lies beyond them.

    Args:
        samples: arrays of any shapes, used one at a time.
        n_edges: number of edges of the bins, one more than there are bins. They are evenly
            spaced, and both limits are among them.
        limit: the last edge; the first is its negative.

    Returns:
        Densities per unit of the values, (sample, n_edges - 1), 0 where all values lie beyond;
        and the share of the values that lie beyond, (sample,).

    Raises:
        MicrotomeError: as in `edges`.
    """
    bins = edges(n_edges, limit)
    found = [_density(_counts(values, bins), values.size, bins) for values in samples]
    densities, beyond = zip(*found, strict=True)
    return np.array(densities), np.array(beyond)


def edges(n_edges: int, limit: float) -> np.ndarray:
    """The edges of the bins of `histograms`, (n_edges,).

    Raises:
        MicrotomeError: there is no bin, or float64 cannot tell the edges apart.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.linspace(-limit, limit, n_edges)
        widths = np.diff(found)
    if not (widths.size and np.isfinite(widths).all() and (widths > 0).all()):
        raise MicrotomeError(
            f"limit {limit} and n_edges {n_edges} make no bins; correct the options `limit`, above "
            "0, and `n_edges`, 2 or more"
        )
    return found


def centres(n_edges: int, limit: float) -> np.ndarray:
    """The centres of the bins of `histograms`, (n_edges - 1,)."""
    found = edges(n_edges, limit)
    return (found[:-1] + found[1:]) / 2


def is_constant(values: np.ndarray, axis: int = -1, scale: np.ndarray | None = None) -> np.ndarray:
    """Find where values along an axis are all equal, or fewer than two: no test is defined there.

    Args:
        values: of any shape.
        axis: the axis that the values to compare lie along.
        scale: the size of what the values were computed from, in the shape of the result; by
            default their own. Differences of up to 1e-10 of it are taken for rounding.
    """
    if values.shape[axis] < 2:
        return np.ones(np.delete(values.shape, axis), dtype=bool)
    lowest, highest = values.min(axis), values.max(axis)
    if scale is None:
        scale = np.maximum(np.abs(lowest), np.abs(highest))
    return highest - lowest <= 1e-10 * scale


def _counts(values: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """The number of values in each bin, (bin,)."""
    # In float64, the dtype of the edges: a value on an edge belongs to the bin above it.
    return np.histogram(values.astype(np.float64), len(bins) - 1, (bins[0], bins[-1]))[0]


def _density(counts: np.ndarray, n: int, bins: np.ndarray) -> tuple[np.ndarray, np.floating]:
    """The density of the values inside the limits, and the share of all n values beyond them."""
    inside = counts.sum()
    return counts / (max(inside, 1) * np.diff(bins)), 1 - inside / n


def freedman_diaconis(
    samples: Iterable[np.ndarray], *, density: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Histograms with the number of bins that the rule of Freedman and Diaconis gives each.

    Source: D. Freedman and P. Diaconis, "On the histogram as a density estimator", 1981.

    Args:
        samples: arrays of any shapes.
        density: whether each integrates to 1, or counts values.

    Returns:
        Heights and left edges of the bins, (sample, bin), those of fewer bins padded with NaN.
        Values that are NaN or infinite are left out.
    """
    found = []
    for sample in samples:
        values = sample[np.isfinite(sample)]
        # The density of no values would be 0 / 0.
        found.append(np.histogram(values, _rule(values), density=density and values.size > 0))
    return _padded([heights for heights, _ in found]), _padded([bins[:-1] for _, bins in found])


def _rule(values: np.ndarray) -> str | int:
    """The rule of Freedman and Diaconis, or a number of bins where it fails."""
    if is_constant(values):
        return 1
    width = 2 * np.subtract(*np.percentile(values, [75, 25])) / np.cbrt(values.size)
    # Of nearly equal values and a few far from them, it makes millions of bins.
    return MOST_BINS if 0 < width * MOST_BINS < np.ptp(values) else "fd"


def _padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Join rows of unequal length into one float64 matrix, the shorter ones padded with NaN."""
    matrix = np.full((len(rows), max(map(len, rows))), np.nan)
    for i, row in enumerate(rows):
        matrix[i, : len(row)] = row
    return matrix


def site_histograms(
    section: xr.Dataset, sites: Sequence[str], n_edges: int, limit: float
) -> xr.Dataset:
    """Histograms of the activations at some sites, over all tokens.

    Args:
        section: variables (`token`, …), the sites among them.
        sites: the sites.
        n_edges: number of edges of the bins; see `histograms`.
        limit: the last edge; the first is its negative.

    Returns:
        `density`, (`site`, `value`), with the centres of the bins along `value`; `n`, (`site`,),
        the number of activations, and `beyond`, the share of them outside the limits; attribute
        `limit`.

    Raises:
        MicrotomeError: as in `edges`.
    """
    values = [section[site].values for site in sites]
    densities, beyond = histograms(values, n_edges, limit)
    return xr.Dataset(
        {
            "density": (("site", "value"), densities),
            "beyond": ("site", beyond),
            "n": ("site", [x.size for x in values]),
        },
        {"site": list(sites), "value": centres(n_edges, limit)},
        {"limit": limit},
    )


def token_histograms(
    section: xr.Dataset, sites: Sequence[str], n_edges: int, limit: float
) -> xr.Dataset:
    """Histograms as in `site_histograms`, for each position in the text.

    Several texts are taken together. Arguments as in `site_histograms`.

    Returns:
        As in `site_histograms`, with a new first dimension `position`.

    Raises:
        MicrotomeError: rows that are means have no position.
    """
    require_positions(section)
    position = section["position"].values
    positions = np.unique(position)
    rows = [
        site_histograms(section.isel(token=position == place), sites, n_edges, limit)
        for place in positions
    ]
    joined = xr.concat(rows, dim="position", coords="minimal", compat="override", join="exact")
    return joined.assign_coords(position=positions)


def token_profile(states: xr.DataArray, token: int) -> xr.Dataset:
    """One token's activations in every hidden state, their mean and their variance.

    Args:
        states: hidden states of one text (see `microtome.statistics.layers`).
        token: the token's position, from the start or, if negative, from the end.

    Returns:
        `activation`, (`hidden`, `d_model`), float32; (`hidden`,), `mean` and `variance`, with n - 1
        in its denominator, in squared units of the activations; the token's coordinates.

    Raises:
        MicrotomeError: more than one text, or it is too short or does not keep that token.
    """
    require_one_text(states)
    activation = states.isel(token=rows_at(states, token)[0])
    values = activation.astype(np.float64)
    moments = {"mean": values.mean("d_model"), "variance": values.var("d_model", ddof=1)}
    return xr.Dataset({"activation": activation, **moments})


def weight_counts(mlp: StoredMLP, layer: int) -> xr.Dataset:
    """The number of weights and biases that the MLP of one layer has.

    Args:
        mlp: a checkpoint's MLPs.
        layer: the layer.

    Returns:
        (`tensor`,): `size` (as in 768 x 3072, inputs first), `count`, and `percent` of all.
        Biases have a row only where the projection has biases. Attribute `layer`.
    """
    tensors = {}
    for projection in mlp.projections:
        tensors[projection] = mlp.weight(projection, layer)
        bias = mlp.bias(projection, layer)
        if bias is not None:
            tensors[projection.replace("W", "b")] = bias
    count = np.array([tensor.size for tensor in tensors.values()])
    size = [" x ".join(map(str, tensor.shape)) for tensor in tensors.values()]
    return xr.Dataset(
        {
            "size": ("tensor", np.array(size, dtype=object)),
            "count": ("tensor", count),
            "percent": ("tensor", 100 * count / count.sum()),
        },
        {"tensor": np.array(list(tensors), dtype=object)},
        {"layer": layer},
    )


def weight_histograms(mlp: StoredMLP, n_edges: int, limit: float) -> xr.Dataset:
    """Histograms of an MLP's weight matrices in every layer.

    Args:
        mlp: a checkpoint's MLPs.
        n_edges: number of edges of the bins; see `histograms`.
        limit: the last edge; the first is its negative.

    Returns:
        `density`, (`layer`, `matrix`, `value`), with the centres of the bins along `value`;
        `beyond`, (`layer`, `matrix`), the share of the weights outside the limits; attribute
        `limit`.
    """
    names, layers = mlp.projections, np.arange(mlp.n_layers)
    densities, beyond = histograms(
        (mlp.weight(name, layer) for layer in layers for name in names), n_edges, limit
    )
    shape = (len(layers), len(names))
    return xr.Dataset(
        {
            "density": (("layer", "matrix", "value"), densities.reshape(*shape, -1)),
            "beyond": (("layer", "matrix"), beyond.reshape(shape)),
        },
        {"layer": layers, "matrix": list(names), "value": centres(n_edges, limit)},
        {"limit": limit},
    )


class Histograms(OfValues):
    """Histograms of all values at a site, over tokens and neurons.

    It finishes as `density`, (`layer`, `site`, `value`), with the centres of the bins along
    `value`; `n`, the number of values, and `beyond`, the share of them outside the limits,
    (`layer`, `site`); attribute `limit`.
    """

    def __init__(
        self, sites: Sequence[str], n_edges: int, limit: float, n_threads: int = 1
    ) -> None:
        """Begin with empty bins.

        Args:
            sites: the sites.
            n_edges: number of edges of the bins; see `histograms`.
            limit: the last edge; the first is its negative.
            n_threads: how many threads count at once. The sweep computes nothing while it waits
                for the counts.

        Raises:
            MicrotomeError: as in `edges`.
        """
        super().__init__(sites)
        self._edges, self._limit, self._n_threads = edges(n_edges, limit), limit, n_threads

    def of(self, values: np.ndarray) -> Kept:
        """The counts of the bins, and the number of values."""
        parts = np.array_split(values, self._n_threads)
        with ThreadPoolExecutor(self._n_threads) as pool:
            counts = sum(pool.map(lambda part: _counts(part, self._edges), parts))
        return {"counts": counts, "n": np.int64(values.size)}

    def finished(self, kept: Kept) -> dict[str, Any]:
        """The density of one layer and site."""
        density, beyond = _density(kept["counts"], kept["n"], self._edges)
        return {"n": kept["n"], "beyond": beyond, "density": density}

    def finish(self) -> xr.Dataset:
        """The densities, with their bins."""
        middles = centres(len(self._edges), self._limit)
        return super().finish().assign_coords(value=middles).assign_attrs(limit=self._limit)


def gelu_demonstration(n: int, limit: float) -> xr.Dataset:
    """GELU, x · Φ(x) with the normal distribution Φ, of evenly spaced values.

    Args:
        n: number of values.
        limit: the largest value; the smallest is its negative.

    Returns:
        (`sample`,): `raw`, `gelu` of it, and `squared_difference` of the two.

    Raises:
        MicrotomeError: squares that float64 cannot hold.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        raw = np.linspace(-limit, limit, n)
        gelu = raw * (1 + erf(raw / np.sqrt(2))) / 2
        squared = (raw - gelu) ** 2
    if not np.isfinite(squared).all():
        raise MicrotomeError(f"limit {limit}: its square is no number; give a smaller `limit`")
    columns = {"raw": raw, "gelu": gelu, "squared_difference": squared}
    return xr.Dataset({name: ("sample", values) for name, values in columns.items()})
