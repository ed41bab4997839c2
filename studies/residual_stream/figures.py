"""Figures of the study on the residual stream; see README.md."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from microtome.figures.panels import dots, panel, sparse_ticks, token_label
from microtome.figures.style import FILLS, ink
from microtome.options import FirstPosition, Layer, Position
from microtome.statistics.positions import at_position, from_position


def block_output(blocks: xr.Dataset, *, layer: Layer, ax: Axes | None = None) -> Figure:
    """Draw a dimension of hidden state and block output; source: project 26, part 1.

    Args:
        blocks: the statistic.
        layer: the block.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (10, 4), layout="tight")
    chosen, dimension = blocks.sel(layer=layer), blocks.attrs["dimension"]
    fill, texts = FILLS[2], chosen["text"].values
    axes.plot(
        chosen["hidden_value"].values,
        "o-",
        color=fill,
        markersize=10,
        markerfacecolor=fill,
        markeredgecolor=ink(),
        label="Hidden state",
    )
    axes.plot(
        chosen["output_value"].values, "r+", markersize=14, markeredgewidth=2, label="Block output"
    )
    sparse_ticks(axes.xaxis, [token_label(text) for text in texts], most=40)
    axes.tick_params(axis="x", rotation=90)
    axes.set(xlabel="Token", ylabel="Activation value")
    axes.set(title=f"Hidden state and output of block L{layer}, dimension {dimension}")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def output_differences(blocks: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw the norm of the differences in every layer; source: project 26, part 2.

    Args:
        blocks: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (9, 3), layout="tight")
    layers = blocks["layer"].values
    axes.plot(
        blocks["difference"].values,
        "h",
        color=ink(),
        markersize=min(14, 400 / len(layers)),
        markerfacecolor=FILLS[0],
    )
    axes.margins(y=0.12)
    sparse_ticks(axes.xaxis, [f"L{layer}" for layer in layers], most=16)
    axes.set(xlabel="Transformer block", ylabel="Norm of difference")
    axes.set(title="Differences between hidden states and block outputs")
    return figure


def adjustments(block: xr.Dataset, adjustments: xr.Dataset, *, token: Position) -> Figure:
    """Draw correlations of the adjustments, and those of one token; source: project 26, part 3.

    Args:
        block: the statistic.
        adjustments: the statistic.
        token: the token whose adjustments are drawn.
    """
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
    pearson, spearman = (adjustments[name].values for name in ("pearson", "spearman"))
    places, layer = np.arange(len(pearson)), adjustments.attrs["layer"]
    low, high = adjustments["null_low"].values, adjustments["null_high"].values
    left.bar(
        places,
        high - low,
        1,
        low,
        color=(0.7, 0.7, 0.7, 0.4),
        zorder=-20,
        label="Permuted (Pearson)",
    )
    left.margins(x=0)
    left.axhline(0, linestyle=":", color=(0.7, 0.7, 0.7), zorder=-20)
    left.vlines(places, pearson, spearman, "grey", "--", linewidth=0.7, zorder=-10)
    for r, name, marker, fill in (
        (pearson, "Pearson", "s", FILLS[0]),
        (spearman, "Spearman", "o", FILLS[1]),
    ):
        left.plot(places, r, marker, color=ink(), markerfacecolor=fill, markersize=9, label=name)
    sparse_ticks(left.xaxis, [token_label(t) for t in adjustments["text"].values], most=40)
    left.tick_params(axis="x", rotation=90)
    left.set(xlabel="Token", ylabel="Correlation (r)")
    left.set(title=f"A) Attention and MLP adjustments, L{layer}")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.35), ncols=3, frameon=False)
    chosen = at_position(block, token).isel(sequence=0)
    dots(right, chosen["attn_out"].values, chosen["mlp_out"].values, FILLS[2])
    right.grid(linestyle="--", color=(0.7, 0.7, 0.7), linewidth=0.7)
    right.set(xlabel="Attention output", ylabel="MLP output")
    text, position = token_label(chosen["text"].item()), chosen["position"].item()
    right.set(title=f'B) Token {position}, "{text}"')
    return figure


def reconstruction(block: xr.Dataset, *, first_token: FirstPosition) -> Figure:
    """Draw what enters, is added, and leaves, value by value; source: project 26, part 4.

    Args:
        block: the statistic.
        first_token: the position of the first token that is drawn.
    """
    figure = Figure(figsize=(12.5, 4.3), layout="constrained")
    layer = block.attrs["layer"]
    drawn = {name: x.values.ravel() for name, x in from_position(block, first_token).items()}
    # The marks have a size, so the limits are a bit beyond the largest value.
    limit = 1.1 * max(np.abs(drawn[name]).max() for name in ("resid_pre", "resid_post"))
    before, after = f"Stream entering L{layer}", f"Stream leaving L{layer}"
    panels = [
        ("resid_pre", "resid_post", FILLS[0], before, after, "A) Hidden states"),
        ("attn_out", "mlp_out", FILLS[2], "Attention output", "MLP output", "B) Adjustments"),
        ("resid_post", "sum", FILLS[1], after, "Entering + attn. + MLP", "C) Reconstruction"),
    ]
    for axes, (x, y, fill, xlabel, ylabel, title) in zip(
        figure.subplots(1, 3), panels, strict=True
    ):
        dots(axes, drawn[x], drawn[y], fill, xlabel=xlabel, ylabel=ylabel, title=title)
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        axes.grid(linestyle="--", color=(0.5, 0.5, 0.5), linewidth=0.5)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, symmetric=True))
    return figure
