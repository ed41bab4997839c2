"""Distributions of values: histograms of activations, of weights, and of a whole corpus.

Sources: Mike X Cohen, "50 ML projects to understand LLMs", project 42, parts 1 to 4 and the demo
of GELU; "LLM breakdown 4/6: Transformer outputs (hidden states)", demo 1.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import xarray as xr
from scipy.special import erf

from microtome.model.stored import StoredMLP
from microtome.statistics.moments import accumulate, layers_by_sites
from microtome.statistics.positions import require_positions, rows_at
from microtome.store.layers import Section


def histograms(
    samples: Iterable[np.ndarray], n_edges: int, limit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Densities of values between ±limit; each integrates to 1, whatever lies beyond them.

    Args:
        samples: arrays of any shapes, used one at a time.
        n_edges: how many edges the bins have, evenly spaced and both limits among them; one more
            than there are bins.
        limit: the last edge; the first is its negative.

    Returns:
        Densities per unit of the values, (sample, n_edges - 1), 0 where all values lie beyond;
        and the share of the values that lie beyond, (sample,).
    """
    found = [
        _density(_counts(values, n_edges, limit), values.size, n_edges, limit) for values in samples
    ]
    densities, beyond = zip(*found, strict=True)
    return np.array(densities), np.array(beyond)


def centres(n_edges: int, limit: float) -> np.ndarray:
    """The centres of the bins of `histograms`, (n_edges - 1,)."""
    edges = np.linspace(-limit, limit, n_edges)
    return (edges[:-1] + edges[1:]) / 2


def _counts(values: np.ndarray, n_edges: int, limit: float) -> np.ndarray:
    """How many values each bin holds, (n_edges - 1,)."""
    # In float64, the dtype of the edges: a value on an edge belongs to the bin above it.
    return np.histogram(values.astype(np.float64), n_edges - 1, (-limit, limit))[0]


def _density(
    counts: np.ndarray, n: int, n_edges: int, limit: float
) -> tuple[np.ndarray, np.floating]:
    """The density of the values inside the limits, and the share of all n values beyond them."""
    inside = counts.sum()
    widths = np.diff(np.linspace(-limit, limit, n_edges))
    return counts / (max(inside, 1) * widths), 1 - inside / n


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
    """
    found = [np.histogram(values, bins="fd", density=density) for values in samples]
    return _padded([heights for heights, _ in found]), _padded([edges[:-1] for _, edges in found])


def _padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of unequal length as one float64 matrix, the shorter ones filled up with NaN."""
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
        n_edges: how many edges the bins have; see `histograms`.
        limit: the last edge; the first is its negative.

    Returns:
        `density`, (`site`, `value`), with the bins' centres along `value`; `n`, (`site`,), how
        many activations there are, and `beyond`, the share of them outside the limits; attribute
        `limit`.
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

    Texts, if there are several, are taken together.

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
    """One token's activations in every hidden state, and their variance.

    Args:
        states: hidden states of one text (see `microtome.statistics.layers`).
        token: the token's position, from the start or, if negative, from the end.

    Returns:
        `activation`, (`hidden`, `d_model`), float32, and `variance`, (`hidden`,), with n - 1 in
        its denominator, squared units of the activations; the token's coordinates.

    Raises:
        MicrotomeError: the text is too short, or does not keep that token.
    """
    activation = states.isel(token=rows_at(states, token)[0])
    variance = activation.astype(np.float64).var("d_model", ddof=1)
    return xr.Dataset({"activation": activation, "variance": variance})


def weight_counts(mlp: StoredMLP, layer: int) -> xr.Dataset:
    """The number of weights and biases that the MLP of one layer has.

    Args:
        mlp: a checkpoint's MLPs.
        layer: the layer.

    Returns:
        (`tensor`,): `size` (say 768 x 3072, inputs first), `count`, and `percent` of all; a
        projection without biases has no row for them. Attribute `layer`.
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
        n_edges: how many edges the bins have; see `histograms`.
        limit: the last edge; the first is its negative.

    Returns:
        `density`, (`layer`, `matrix`, `value`), with the bins' centres along `value`; `beyond`,
        (`layer`, `matrix`), the share of the weights outside the limits; attribute `limit`.
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


def running_histograms(
    sections: Iterable[Section], n_edges: int, limit: float, n_threads: int = 1
) -> xr.Dataset:
    """Histograms of all values at a site, over tokens and neurons, counted batch by batch.

    Args:
        sections: layer by layer, as the sweep yields them.
        n_edges: how many edges the bins have; see `histograms`.
        limit: the last edge; the first is its negative.
        n_threads: how many threads count at once. The sweep computes nothing while it waits for
            the counts.

    Returns:
        `density`, (`layer`, `site`, `value`), with the bins' centres along `value`; `n`, how many
        values there are, and `beyond`, the share of them outside the limits, (`layer`, `site`);
        attribute `limit`.
    """

    def counted(values: np.ndarray) -> np.ndarray:
        """The counts of the bins, and last the number of values."""
        parts = np.array_split(values, n_threads)
        return np.append(sum(pool.map(lambda x: _counts(x, n_edges, limit), parts)), values.size)

    def finished(counts: np.ndarray) -> dict[str, np.ndarray]:
        density, beyond = _density(counts[:-1], counts[-1], n_edges, limit)
        return {"n": counts[-1], "beyond": beyond, "density": density}

    with ThreadPoolExecutor(n_threads) as pool:
        found = accumulate(sections, counted)
    whole = layers_by_sites({place: finished(counts) for place, counts in found.items()})
    return whole.assign_coords(value=centres(n_edges, limit)).assign_attrs(limit=limit)


def gelu_demonstration(n: int, limit: float) -> xr.Dataset:
    """GELU, x · Φ(x) with the normal distribution Φ, of evenly spaced values.

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
