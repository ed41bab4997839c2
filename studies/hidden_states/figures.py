"""Figures of the study on hidden states; see README.md."""

from string import ascii_uppercase

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from microtome.figures.panels import (
    clean_line,
    cosine_matrices,
    depth_colours,
    marks,
    panel,
    sparse_ticks,
    strips,
    token_label,
)
from microtome.figures.style import FILLS, ink
from microtome.options import Limits


def token_profile(token_profile: xr.Dataset, *, mean: bool = False) -> Figure:
    """Draw `token_profile` over the hidden states; source: LLM breakdown 4/6, demo 1.

    Args:
        token_profile: the statistic.
        mean: whether the mean has a panel, too; source: project 24, part 2.
    """
    hidden = token_profile["hidden"].values
    markers = {"mean": "h", "variance": "s"} if mean else {"variance": "s"}
    figure = Figure(figsize=(12, 4), layout="tight")
    left, *others = figure.subplots(1, 1 + len(markers))
    strips(left, token_profile["activation"].values)
    left.set(ylabel="Activation value")
    titles = ["Hidden state activations"]
    for axes, (variable, marker) in zip(others, markers.items(), strict=True):
        fills, size = depth_colours(len(hidden)), min(12, 300 / len(hidden)) ** 2
        marks(axes, token_profile[variable].values, fills, marker=marker, size=size)
        axes.set(ylabel=f"Activation {variable}")
        titles.append(f"Activation {variable}s")
    token = token_label(token_profile["text"].item())
    for axes, title, letter in zip(figure.axes, titles, ascii_uppercase, strict=False):
        whole = f'{title} for token "{token}"'
        # Three titles side by side have less room.
        axes.set_title(f'{letter}) {title}\nfor token "{token}"' if mean else whole)
        axes.set(xlabel="Hidden layer (model depth)")
        sparse_ticks(axes.xaxis, hidden, most=13 if len(titles) == 2 else 9)
    return figure


def layer_similarity(layer_similarity: xr.Dataset, *, limits: Limits) -> Figure:
    """Draw the matrices of `layer_similarity`; source: LLM breakdown 4/6, demo 2.

    Args:
        layer_similarity: the statistic.
        limits: the similarities at the ends of the colour scale.
    """
    titles = [f'CS matrix for "{token_label(text)}"' for text in layer_similarity["text"].values]
    figure = Figure(figsize=(3 * len(titles), 3), layout="constrained")
    row = cosine_matrices(figure, titles, layer_similarity["cosine"].values, limits)
    for axes in row:
        for axis in (axes.xaxis, axes.yaxis):
            sparse_ticks(axis, layer_similarity["hidden"].values, most=6)
    row[0].set(xlabel="Hidden layer (model depth)", ylabel="Hidden layer (model depth)")
    return figure


def token_similarity(token_similarity: xr.Dataset, *, limits: Limits) -> Figure:
    """Draw the matrices of `token_similarity`; source: LLM breakdown 4/6, demo 2.

    Args:
        token_similarity: the statistic.
        limits: the similarities at the ends of the colour scale.
    """
    titles = [f"CS matrix for {hidden}" for hidden in token_similarity["hidden"].values]
    figure = Figure(figsize=(3 * len(titles), 3), layout="constrained")
    tokens = [token_label(text) for text in token_similarity["text"].values]
    for axes in cosine_matrices(figure, titles, token_similarity["cosine"].values, limits):
        sparse_ticks(axes.xaxis, tokens, most=14)
        sparse_ticks(axes.yaxis, tokens, most=14)
        axes.tick_params(axis="x", rotation=90)
    return figure


def similarity_profile(similarity_profile: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw `similarity_profile` over the hidden states; source: LLM breakdown 4/6, demo 2.

    Args:
        similarity_profile: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (10, 4), layout="tight")
    strips(axes, similarity_profile["cosine"].values)
    sparse_ticks(axes.xaxis, similarity_profile["hidden"].values, most=16)
    axes.set(xlabel="Hidden layer (model depth)", ylabel="Cosine similarity")
    axes.set(title="Laminar profile of inter-token cosine similarities")
    return figure


def scaling(scaling: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw `scaling` over the blocks; source: LLM breakdown 4/6, demo 3.

    Args:
        scaling: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (9, 3), layout="tight")
    layers = scaling["layer"].values
    axes.plot(
        layers,
        scaling["log_probability"].values,
        "h",
        color=ink(),
        markersize=14,
        markerfacecolor=FILLS[0],
    )
    clean_line(axes, scaling["clean"].item())
    axes.margins(x=0.03, y=0.12)
    sparse_ticks(axes.xaxis, [f"L{layer}" for layer in layers], most=16)
    axes.set(xlabel="Transformer block", ylabel="Log softmax")
    axes.set(title="Impact of global hidden-state scaling on log-softmax")
    return figure
