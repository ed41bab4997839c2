"""Figures of the study on dimension reduction; see README.md."""

from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from microtome.figures.panels import clean_line, heatmap, panel, sparse_ticks
from microtome.figures.style import FILLS, LINES, ink
from microtome.options import Count, Limits, Positive

#: How the runs of `each_layer` are called, and drawn: marker and fill.
RUNS = {
    "all": ("All tokens", "h", FILLS[0]),
    "rest": ("Without the first token", "s", FILLS[1]),
    "displaced": ("Moved as far at random", "^", FILLS[2]),
}

#: Colour map from the first layer to the last, in the scatter plot.
DEPTH = "CMRmap"


def picture(picture: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw the picture; source: project 29, part 1.

    Args:
        picture: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (6.4, 4.4), layout="tight")
    _grey(axes, picture["grey"].values)
    axes.set_title("Picture")
    return figure


def svd(
    svd: xr.Dataset,
    *,
    u_limit: Positive,
    sigma_limit: Positive,
    v_limit: Positive,
    relative: bool = False,
) -> Figure:
    """Draw U, Σ and Vᵀ as images, and the singular values; source: project 29, parts 1 and 2.

    Args:
        svd: the statistic, of the picture or of a hidden state.
        u_limit: the end of the colour scale of U; it begins at its negative.
        sigma_limit: the end of the colour scale of Σ, which begins at 0.
        v_limit: as `u_limit`, of Vᵀ.
        relative: whether the limits count root mean squares of U and Vᵀ, and the median singular
            value.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    grid = figure.add_gridspec(2, 3)
    values = svd["sigma"].values
    for axes, title, matrix, limit, unit in zip(
        [figure.add_subplot(grid[0, column]) for column in range(3)],
        ("U", "Σ", "Vᵀ"),
        (svd["u"].values, np.diag(values), svd["vt"].values),
        (u_limit, sigma_limit, v_limit),
        (svd.sizes["row"] ** -0.5, np.median(values), svd.sizes["column"] ** -0.5),
        strict=True,
    ):
        end = limit * (unit if relative else 1)
        start, colours = (0, "viridis") if title == "Σ" else (-end, "plasma")
        axes.imshow(matrix, aspect="auto", cmap=colours, vmin=start, vmax=end)
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(True)
    spectrum = figure.add_subplot(grid[1, :])
    look: dict[str, Any] = {"markerfacecolor": FILLS[0], "markeredgewidth": 0.5}
    spectrum.plot(values, "s-", color=ink(), linewidth=1, markersize=6, **look)
    spectrum.margins(x=0.02)
    spectrum.set(xlabel="Singular values (index)", ylabel="σ")
    return figure


def picture_components(picture: xr.Dataset, picture_reductions: xr.Dataset) -> Figure:
    """Draw the picture and what so many components make of it; source: project 29, part 1."""
    return _beside(picture, picture_reductions.sel(kept="components"))


def picture_percent(picture: xr.Dataset, picture_reductions: xr.Dataset) -> Figure:
    """Draw the picture and what components of most of it make of it; source: project 29, part 1."""
    return _beside(picture, picture_reductions.sel(kept="percent"))


def hidden_state(
    hidden_state: xr.Dataset, *, limits: Limits, every: Count, relative: bool = False
) -> Figure:
    """Draw a hidden state, reduced and not; source: project 29, part 2.

    Args:
        hidden_state: the statistic.
        limits: the values at the ends of the colour scale.
        every: of how many values one is drawn in the scatter plot.
        relative: whether the limits count standard deviations, the median of those of the tokens.
    """
    figure = Figure(figsize=(12, 8), layout="constrained")
    (first, second), (third, scatter) = figure.subplots(2, 2)
    original, reduced = hidden_state["original"].values, hidden_state["reduced"].values
    unit = np.median(original.std(axis=1)) if relative else 1.0
    ends = (limits[0] * unit, limits[1] * unit)
    n, percent = hidden_state["n_components"].item(), hidden_state.attrs["percent"]
    layer = hidden_state.attrs["layer"]
    images = (
        (first, f"Original (L{layer})", original),
        (second, f"Reconstruction ({n} components, {percent:g}% of variance)", reduced),
        (third, "Difference", original - reduced),
    )
    for axes, title, values in images:
        heatmap(axes, values, ends, cmap="rainbow", origin="upper")
        axes.set(xlabel="Dimension", ylabel="Token position", title=title)
    scatter.plot(
        original.ravel()[::every],
        reduced.ravel()[::every],
        "o",
        markersize=7,
        markerfacecolor=(*FILLS[1], 0.3),
        markeredgecolor=ink(),
        markeredgewidth=0.5,
        rasterized=True,
    )
    scatter.set(xlabel="Original activation", ylabel="Reconstructed activation")
    scatter.set_title(f"Reconstruction: r = {hidden_state['correlation'].item():.5f}")
    return figure


def one_layer(one_layer: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw the norms of the differences over the layers; source: project 29, part 3.

    Args:
        one_layer: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (10, 3), layout="tight")
    for tokens, size in (("all", 11), ("rest", 6)):
        label, marker, fill = RUNS[tokens]
        norms = one_layer["difference"].sel(tokens=tokens).values
        look: dict[str, Any] = {"markersize": size, "markerfacecolor": fill, "label": label}
        axes.plot(one_layer["layer"].values, norms, marker, color=ink(), **look)
    reduced, percent = one_layer.attrs["layer"], one_layer.attrs["percent"]
    axes.axvline(reduced, color=ink(), linestyle="--", linewidth=1, zorder=-3)
    axes.axhline(0, color=ink(), linestyle=":", zorder=-10)
    n = one_layer["n_components"].item()
    axes.set(xlabel="Transformer block", ylabel="Norm of difference")
    axes.set_title(f"L{reduced} reduced to {percent:g}% of variance ({n} components)")
    axes.locator_params("x", integer=True)
    axes.margins(x=0.02)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def each_layer(each_layer: xr.Dataset) -> Figure:
    """Draw components, differences and losses, one layer reduced at a time; source: part 4."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    (counts, norms), (losses, scatter) = figure.subplots(2, 2)
    layers, percent = each_layer["layer"].values, each_layer.attrs["percent"]
    depth = Normalize(0, max(layers[-1], 1))
    for run in ("all", "rest"):
        loss = each_layer["loss"].sel(run=run).values
        _profile(counts, layers, each_layer["n_components"].sel(tokens=run).values, run)
        _profile(losses, layers, loss, run)
        scatter.scatter(
            each_layer["part_of_components"].sel(tokens=run).values,
            loss,
            110,
            c=mpl.colormaps[DEPTH](depth(layers)),
            marker=RUNS[run][1],
            edgecolors=ink(),
            alpha=0.8,
        )
    for name, label, colour, marker, fill in (
        ("hidden_state", "Hidden state", LINES[2], "s", FILLS[2]),
        ("logits", "Logits", LINES[0], "o", FILLS[0]),
    ):
        values = each_layer[name].sel(run="all").values
        look = {"markersize": 9, "markerfacecolor": (*fill, 0.7), "linewidth": 0.5}
        norms.plot(layers, values / values.max(), f"{marker}-", color=colour, label=label, **look)
    clean_line(losses, each_layer["clean_loss"].item())
    counts.set(ylabel="Components", ylim=(0, None))
    counts.set_title(f"A) Components for {percent:g}% of variance")
    norms.set(ylabel="Norm of difference (largest: 1)", ylim=(0, None))
    norms.set_title("B) Impact on hidden states and logits")
    norms.legend(frameon=False)
    losses.set(ylabel="Loss (nats)", title="C) Impact on the loss")
    for axes in (counts, norms, losses):
        axes.set(xlabel="Transformer block that is reduced")
        axes.locator_params("x", integer=True)
    bar = figure.colorbar(ScalarMappable(depth, DEPTH), ax=scatter, pad=0.02)
    bar.set_label("Transformer block")
    scatter.set(xlabel="Components (% of all)", ylabel="Loss (nats)", title="D) Reduction and loss")
    figure.legend(*counts.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def without_first_token(each_layer: xr.Dataset) -> Figure:
    """Draw relative differences, and what reductions without the first token add to the loss."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    relative, increases = figure.subplots(1, 2)
    layers = each_layer["layer"].values
    for run in ("all", "rest"):
        _profile(relative, layers, 100 * each_layer["relative"].sel(run=run).values, run)
    relative.set(ylim=(0, None), ylabel="Norm of difference\n(% of the hidden state's)")
    relative.set_title("A) Relative impact on hidden states")
    aside = 0.005 * np.ptp(layers)
    for run, places in (("rest", layers - aside), ("displaced", layers + aside)):
        of_run = each_layer.sel(run=run)
        _profile(increases, places, of_run["increase"].values, run)
        low, high = of_run["low"].values, of_run["high"].values
        increases.vlines(places, low, high, color=ink(), linewidth=1, zorder=1)
    increases.axhline(0, linestyle="--", color=(0.7, 0.7, 0.7), zorder=-3)
    confidence = 100 * (1 - each_layer.attrs["alpha"])
    increases.set_ylabel(f"Increase of the loss (nats;\nbars: {confidence:g}% interval)")
    increases.set_title("B) Impact on the loss")
    for axes in (relative, increases):
        axes.set(xlabel="Transformer block that is reduced")
        axes.locator_params("x", integer=True)
    found = {
        label: handle
        for axes in (relative, increases)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=3)
    return figure


def each_token(
    each_token: xr.Dataset, *, limits: Limits, relative: bool = False, ax: Axes | None = None
) -> Figure:
    """Draw how far each token is moved as an image; source: project 29, part 4.

    Args:
        each_token: the statistic.
        limits: the norms at the ends of the colour scale.
        relative: whether the limits count medians of all norms.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (11, 4), layout="constrained")
    values = each_token["difference"].values
    unit = np.median(values) if relative else 1.0
    heatmap(axes, values, (limits[0] * unit, limits[1] * unit), "Norm of difference")
    sparse_ticks(axes.yaxis, [f"L{layer}" for layer in each_token["layer"].values], most=12)
    axes.set(xlabel="Token position", ylabel="Transformer block that is reduced")
    axes.set_title("Impact of the reduction on hidden states")
    return figure


def _profile(axes: Axes, layers: np.ndarray, values: np.ndarray, run: str) -> None:
    """Draw a run over the layers, without those where it has no value."""
    label, marker, fill = RUNS[run]
    known = np.isfinite(values)
    look: dict[str, Any] = {
        "markersize": 9,
        "markerfacecolor": fill,
        "linewidth": 0.5,
        "label": label,
    }
    axes.plot(layers[known], values[known], f"{marker}-", color=ink(), **look)


def _grey(axes: Axes, grey: np.ndarray) -> None:
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
    axes.spines[["top", "right"]].set_visible(True)


def _beside(picture: xr.Dataset, reduction: xr.Dataset) -> Figure:
    """Draw a picture and its reduction side by side."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _grey(left, picture["grey"].values)
    left.set_title("Original picture")
    _grey(right, reduction["grey"].values)
    n, held = reduction["n_components"].item(), reduction["held"].item()
    right.set_title(f"{n} of {min(picture['grey'].shape)} components ({held:.2f}%)")
    return figure
