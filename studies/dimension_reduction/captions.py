"""What the figures of the study on dimension reduction say, in numbers."""

import numpy as np
import xarray as xr

from microtome.page.numbers import number, peak, spread


def picture(picture: xr.Dataset) -> str:
    """How large the picture is."""
    grey = picture["grey"]
    rows, columns = grey.shape
    return f"{rows} by {columns} pixels, whose mean is {number(grey.mean(), 0)} of 255."


def svd(svd: xr.Dataset) -> str:
    """What the first component holds."""
    squares = svd["sigma"].values ** 2
    first = number(100 * squares[0] / np.sum(squares))
    return f"The first component holds {first}% of the sum of squares."


def picture_components(picture_reductions: xr.Dataset) -> str:
    """What so many components hold."""
    return _held(picture_reductions.sel(kept="components"))


def picture_percent(picture_reductions: xr.Dataset) -> str:
    """How many components are enough."""
    return _held(picture_reductions.sel(kept="percent"))


def hidden_state(hidden_state: xr.Dataset) -> str:
    """How many components are kept, and how much alike the result is."""
    n, rank = hidden_state["n_components"].item(), hidden_state["reduced_rank"].item()
    return (
        f"{n} components are kept; with the means, the rank is {rank} instead of "
        f"{hidden_state['rank'].item()}. The correlation is "
        f"{number(hidden_state['correlation'], 5)}."
    )


def one_layer(one_layer: xr.Dataset) -> str:
    """What becomes of the difference downstream."""
    differences = one_layer["difference"].sel(tokens="all")
    at, last = differences.sel(layer=one_layer.attrs["layer"]), differences[-1]
    relative = 100 * one_layer["relative"].sel(tokens="all", layer=one_layer.attrs["layer"])
    return (
        f"The difference is {number(at)} in the reduced layer, {number(relative)}% of the hidden "
        f"state, and {number(last)} in the last one."
    )


def each_layer(each_layer: xr.Dataset) -> str:
    """How many components are kept, and what it does to the loss."""
    loss, counts = each_layer["loss"].sel(run="all"), each_layer["n_components"]
    return (
        f"Of all tokens {spread(counts.sel(tokens='all'), 0)} components are kept, without the "
        f"first token {spread(counts.sel(tokens='rest'), 0)}. Of the clean run the loss is "
        f"{number(each_layer['clean_loss'])}; it is largest with {peak(loss)} reduced."
    )


def each_token(each_token: xr.Dataset) -> str:
    """Where tokens are moved farthest."""
    mean = each_token["difference"].mean("token")
    return f"On average, tokens are moved farthest in {peak(mean)}."


def without_first_token(each_layer: xr.Dataset) -> str:
    """In how many layers the loss rises for certain, and what as large a change at random does."""
    found = each_layer.sel(run=["rest", "displaced"]).dropna("layer")
    above = (found["low"] > 0).sum("layer")
    rest, displaced = found["increase"].mean("layer").values
    n = found.sizes["layer"]
    return (
        f"Without the first token, the loss rises by {number(rest, 3)} on average, and its "
        f"interval lies above 0 in {int(above[0])} of {n} layers; where tokens are moved at "
        f"random, by {number(displaced, 3)} and in {int(above[1])}."
    )


def _held(reduction: xr.Dataset) -> str:
    n, held = reduction["n_components"].item(), reduction["held"].item()
    return f"{n} components hold {number(held)}% of the sum of squares."
