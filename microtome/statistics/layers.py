"""Sections in, rows of a laminar profile out."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from microtome.errors import MicrotomeError
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


def at_position(section: xr.Dataset, position: int) -> xr.Dataset:
    """Keep one token of each sequence.

    Args:
        section: activations with token coordinates.
        position: its position in the sequence, from the start or, if negative, from the end.

    Returns:
        The same variables with the dimension `sequence` in the place of `token`.

    Raises:
        MicrotomeError: a sequence that is too short.
    """
    number = section["sequence"].values
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    lengths = np.diff(starts, append=len(number))
    for i, length in enumerate(lengths):
        if not -length <= position < length:
            raise MicrotomeError(
                f"token {position}: sequence {i} has {length} tokens; correct the `token` option"
            )
    rows = starts + (position if position >= 0 else lengths + position)
    return section.isel(token=rows).swap_dims(token="sequence")


def from_position(section: xr.Dataset, position: int) -> xr.Dataset:
    """Leave out the first tokens of each sequence, as those that attention sinks into.

    Args:
        section: activations with token coordinates.
        position: the position of the first token to keep, from the start of its sequence.

    Raises:
        MicrotomeError: no sequence is that long.
    """
    kept = section["position"].values >= position
    if not kept.any():
        raise MicrotomeError(
            f"token {position}: the longest sequence has {section['position'].values.max() + 1} "
            "tokens; correct the `first_token` option"
        )
    return section.isel(token=kept)


def distinct(section: xr.Dataset, position: int) -> xr.Dataset:
    """Keep one token of each sequence, once per distinct context.

    A causal model computes the same activation wherever a token and all before it are the same,
    so sequences that begin alike give one row, not many equal ones.

    Args:
        section: activations with token coordinates.
        position: as in `at_position`.
    """
    chosen = at_position(section, position)
    number, place = section["sequence"].values, section["position"].values
    ids = section["token_id"].values
    contexts = [
        ids[(number == sequence) & (place <= last)].tobytes()
        for sequence, last in zip(chosen["sequence"].values, chosen["position"].values, strict=True)
    ]
    first = [i for i, context in enumerate(contexts) if context not in contexts[:i]]
    return chosen.isel(sequence=first)
