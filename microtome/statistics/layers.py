"""Layer by layer: one section at a time, and the hidden states of all."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import xarray as xr

from microtome.errors import MicrotomeError
from microtome.store.layers import Section


def by_layer(
    statistic: Callable[..., xr.Dataset], sections: xr.Dataset, *inputs: Any, **options: Any
) -> xr.Dataset:
    """Make a statistic of every layer, as the workflow does.

        by_layer(statistics.norms, sections, site="attn_out")

    Args:
        statistic: a function whose first parameter is `section`, the activations of one layer.
        sections: activations along `layer`, as `microtome.sweep` and `microtome.open` give them.
        inputs: the function's other positional parameters.
        options: its keyword-only parameters.

    Returns:
        What the function returns of each layer, along a new first dimension `layer`.
    """
    layers = sections["layer"].values.tolist()
    each = (
        (layer, statistic(section, *inputs, **options))
        for layer in layers
        for section in [sections.sel(layer=layer, drop=True).assign_attrs(layer=layer)]
    )
    return stack_layers(each, len(layers))


def stream(sections: xr.Dataset) -> Iterator[Section]:
    """Hand out activations as a statistic that is made in the sweep takes them.

    Args:
        sections: activations along `layer`, as `microtome.sweep` and `microtome.open` give them,
            with just the sites that the statistic is of.

    Yields:
        The activations of one layer after another, all rows at once.
    """
    rows = np.arange(sections.sizes["token"])
    for layer in sections["layer"].values.tolist():
        chosen = sections.sel(layer=layer)
        yield Section(layer, rows, {str(site): chosen[site].values for site in chosen})


def stack_layers(results: Iterable[tuple[int, xr.Dataset]], n: int) -> xr.Dataset:
    """Stack the datasets of n layers, each forgotten once it is copied.

    `xarray.concat` does the same, but holds all of them beside the stack.

    Args:
        results: layers, and a dataset for each.
        n: how many layers.

    Returns:
        The variables along a new first dimension `layer`; other coordinates and attributes are
        those of the first layer's dataset.

    Raises:
        ValueError: datasets whose variables differ in name, dimensions, size or dtype.
    """
    layers: list[int] = []
    for layer, found in results:
        kinds = {name: (v.dims, v.shape, v.dtype) for name, v in found.items()}
        if not layers:
            expected, attributes = kinds, found.attrs
            variables = {
                name: (("layer", *v.dims), np.empty((n, *v.shape), v.dtype), v.attrs)
                for name, v in found.items()
            }
            coordinates = {name: v.variable.load() for name, v in found.coords.items()}
        if kinds != expected:
            raise ValueError(f"layer {layer} has {kinds}, and layer {layers[0]} {expected}")
        for name, (_, stack, _) in variables.items():
            stack[len(layers)] = found[name].values
        layers.append(layer)
        del found  # before the next one is computed
    return xr.Dataset(variables, {"layer": layers, **coordinates}, attributes)


def hidden_state_label(layer: int) -> str:
    """The label of a hidden state: that of the block that returns it, L0, L1, …, or Emb.

    Args:
        layer: the block; -1 for what enters the first one.
    """
    return "Emb" if layer < 0 else f"L{layer}"


def stack_hidden_states(resid_pre: xr.DataArray, ln_final: xr.DataArray) -> xr.DataArray:
    """Stack the hidden states of texts as transformers' `output_hidden_states` gives them.

    They are what enters the first block, what each block but the last returns, and the final
    norm's output: the last block's own output is not among them.

    Args:
        resid_pre: what enters each block, (`layer`, `token`, `d_model`), all layers.
        ln_final: the final norm's output, (`token`, `d_model`), with token coordinates.

    Returns:
        (`hidden`, `token`, `d_model`), float32, with `hidden` Emb, L0, L1, … and the token
        coordinates.

    Raises:
        MicrotomeError: a layer is left out.
    """
    layers = resid_pre["layer"].values.tolist()
    if layers != list(range(len(layers))):
        raise MicrotomeError(f"layers {layers}: hidden states want `layers: all`")
    return xr.DataArray(
        np.concatenate([resid_pre.values, ln_final.values[None]]),
        {**ln_final.coords, "hidden": [hidden_state_label(layer) for layer in (-1, *layers)]},
        ("hidden", *ln_final.dims),
    )
