"""What a statistic says of each layer, for models that differ in their number of layers."""

from collections.abc import Iterable, Mapping

import numpy as np
import xarray as xr

from microtome.errors import MicrotomeError, nearest


def laminar(statistic: xr.Dataset, variable: str, at: Mapping[str, str | float]) -> xr.DataArray:
    """Choose a variable of a statistic, and a place along each dimension but the depth.

    Args:
        statistic: the statistic.
        variable: the variable's name.
        at: the place along each other dimension, by its coordinate.

    Returns:
        (`layer`,), or of hidden states (`hidden`,).

    Raises:
        MicrotomeError: there is no such variable, dimension or place, or not one for each layer.
    """
    if variable not in statistic.data_vars:
        raise MicrotomeError(f"no variable {variable!r}; {_nearest(variable, statistic.data_vars)}")
    values = statistic[variable]
    for dimension, place in at.items():
        if dimension not in values.dims:
            remedy = _nearest(dimension, values.dims)
            raise MicrotomeError(f"{variable} has no dimension {dimension!r}; {remedy}")
        places = values[dimension].values.tolist()
        if place not in places:
            raise MicrotomeError(f"{dimension} has no place {place!r}; {_nearest(place, places)}")
        values = values.sel({dimension: place})
    if values.dims in (("layer",), ("hidden",)):
        return values
    others = ", ".join(str(name) for name in values.dims if name not in ("layer", "hidden"))
    raise MicrotomeError(
        f"{variable} differs by {others} too; choose a place along each with `at`"
        if "layer" in values.dims or "hidden" in values.dims
        else f"{variable} has no dimension `layer`; take another variable"
    )


def _nearest(name: object, known: Iterable[object]) -> str:
    return nearest(str(name), [str(each) for each in known])


def by_depth(profiles: Mapping[str, xr.DataArray], n_layers: Mapping[str, int]) -> xr.Dataset:
    """Values of the layers of several models, by the relative depth of each layer.

    Args:
        profiles: of each model the values, as `laminar` returns them.
        n_layers: of each model the number of its layers.

    Returns:
        `value`, (`point`,), with the coordinates `model` and `depth`: 0 in a model's first layer or
        hidden state, 1 in its last; 0 in a model of one layer.
    """
    points = []
    for model, values in profiles.items():
        if values.dims == ("hidden",):  # all of them
            depth = np.linspace(0, 1, len(values))
        else:
            depth = values["layer"].values / max(n_layers[model] - 1, 1)
        coordinates = {"model": ("point", [model] * len(depth)), "depth": ("point", depth)}
        points.append(xr.Dataset({"value": ("point", values.values)}, coordinates))
    return xr.concat(points, "point")
