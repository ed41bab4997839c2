"""The weights of the MLPs: how many there are, how they are distributed, what they multiply to.

Source: Mike X Cohen, "50 ML projects to understand LLMs", project 42, part 1.
"""

import numpy as np
import xarray as xr

from microtome.model.stored import StoredMLP
from microtome.statistics.distributions import centres, histograms


def weight_counts(mlp: StoredMLP, layer: int) -> xr.Dataset:
    """How many weights and biases the MLP of one layer has.

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


def weight_product(mlp: StoredMLP, layer: int) -> xr.Dataset:
    """The squared elements of the product of an MLP's first and last weight matrix.

    Were the matrices inverses of each other, this would be the identity.

    Args:
        mlp: a checkpoint's MLPs; of a gated one, the gate is the first matrix.
        layer: the layer.

    Returns:
        `squared`, (`input`, `output`), d_model × d_model, float32; attributes `layer` and
        `first`, the first matrix' name.
    """
    first, last = mlp.projections[0], mlp.projections[-1]
    product = mlp.weight(first, layer).astype(np.float64) @ mlp.weight(last, layer)
    squared = (product**2).astype(np.float32)
    return xr.Dataset(
        {"squared": (("input", "output"), squared)}, attrs={"layer": layer, "first": first}
    )


def weight_histograms(mlp: StoredMLP, n_edges: int, limit: float) -> xr.Dataset:
    """Histograms of an MLP's weight matrices in every layer.

    Args:
        mlp: a checkpoint's MLPs.
        n_edges: of the bins; see `histograms`.
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
