"""What a statistic says of each layer, for models that differ in their number of layers."""

from collections.abc import Iterable, Mapping

import xarray as xr

from microtome.errors import MicrotomeError, nearest


def laminar(statistic: xr.Dataset, variable: str, at: Mapping[str, str | float]) -> xr.DataArray:
    """Choose a variable of a statistic, and a place along each dimension but `layer`.

    Args:
        statistic: the statistic.
        variable: the variable's name.
        at: the place along each other dimension, by its coordinate.

    Returns:
        (`layer`,).

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
    if values.dims == ("layer",):
        return values
    others = ", ".join(str(name) for name in values.dims if name != "layer")
    raise MicrotomeError(
        f"{variable} differs by {others} too; choose a place along each with `at`"
        if "layer" in values.dims
        else f"{variable} has no dimension `layer`; take another variable"
    )


def _nearest(name: object, known: Iterable[object]) -> str:
    return nearest(str(name), [str(each) for each in known])


def by_depth(profiles: Mapping[str, xr.DataArray], n_layers: Mapping[str, int]) -> xr.Dataset:
    """Values of the layers of several models, by the relative depth of each layer.

    Args:
        profiles: of each model the values, (`layer`,).
        n_layers: of each model the number of its layers.

    Returns:
        `value`, (`point`,), with the coordinates `model`, `layer` and `depth`: 0 in a model's first
        layer, 1 in its last; 0 in a model of one layer.
    """
    points = []
    for model, values in profiles.items():
        layers = values["layer"].values
        coordinates = {
            "model": ("point", [model] * len(layers)),
            "layer": ("point", layers),
            "depth": ("point", layers / max(n_layers[model] - 1, 1)),
        }
        points.append(xr.Dataset({"value": ("point", values.values)}, coordinates))
    return xr.concat(points, "point")
