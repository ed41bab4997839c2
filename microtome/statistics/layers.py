"""Layer by layer: one section at a time, and the hidden states of all."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from microtome.errors import MicrotomeError
from microtome.statistics.positions import require_one_text
from microtome.store.datasets import open_layer


def by_layer(
    paths: Sequence[str | Path], statistic: Callable[[xr.Dataset], xr.Dataset]
) -> xr.Dataset:
    """Apply a statistic to one layer file after another, one in memory at a time.

    Args:
        paths: layer files.
        statistic: takes the dataset of one layer (see `microtome.store.datasets.open_layer`).

    Returns:
        The statistic of every layer, along a new first dimension `layer`.
    """
    rows = []
    for path in paths:
        with open_layer(path) as section:
            rows.append(statistic(section).expand_dims(layer=[int(section.attrs["layer"])]))
    return xr.concat(rows, dim="layer", coords="minimal", compat="override", join="exact")


def stack_hidden_states(resid_pre: xr.DataArray, ln_final: xr.DataArray) -> xr.DataArray:
    """Stack the hidden states of one text as transformers' `output_hidden_states` gives them.

    They are what enters the first block, what each block but the last returns, and the final
    norm's output: the last block's own output is not among them.

    Args:
        resid_pre: what enters each block, (`layer`, `token`, `d_model`), all layers.
        ln_final: the final norm's output, (`token`, `d_model`), with token coordinates.

    Returns:
        (`hidden`, `token`, `d_model`), float32, with `hidden` Emb, L0, L1, … and the token
        coordinates.

    Raises:
        MicrotomeError: a layer is left out, or there is more than one text.
    """
    layers = resid_pre["layer"].values.tolist()
    if layers != list(range(len(layers))):
        raise MicrotomeError(f"layers {layers}: hidden states want `layers: all`")
    require_one_text(ln_final)
    return xr.DataArray(
        np.concatenate([resid_pre.values, ln_final.values[None]]),
        {**ln_final.coords, "hidden": ["Emb", *(f"L{layer}" for layer in layers)]},
        ("hidden", *ln_final.dims),
    )
