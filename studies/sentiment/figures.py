"""Figures of the study on sentiment; see README.md."""

from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from microtome.figures.panels import panel, sparse_ticks
from microtome.figures.style import DEPTH, FILLS, ink
from microtome.options import Count, Limits

#: The fills of the two categories, and of training and test texts, as in the notebook.
CATEGORIES, TRAIN, TEST = FILLS[:2], FILLS[2], FILLS[0]


def batches(batches: xr.Dataset, *, limits: Limits, ax: Axes | None = None) -> Figure:
    """Draw `batches`; source: project 30, part 2.

    Args:
        batches: the statistic.
        limits: ends of the y axis.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (8, 3), layout="tight")
    number = np.arange(batches.sizes["batch"])
    for name, marker, fill, label in (
        ("n_texts", "s", FILLS[2], "Number of sequences"),
        ("n_tokens", "o", FILLS[1], "Number of tokens"),
    ):
        _marks(axes, number, batches[name].values, marker, fill, label)
    axes.set(xlabel="Batch number", ylabel="Counts", ylim=limits, title="Sizes of the batches")
    axes.locator_params("x", integer=True)
    axes.legend()
    return figure


def violins(means: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw the mean activations in the last hidden state of `means`; source: project 30, part 3.

    Args:
        means: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (8, 5), layout="tight")
    last = means.isel(hidden=-1)
    samples = [last["mean"].values[last["label"].values == number] for number in (0, 1)]
    drawn: dict[str, Any] = axes.violinplot(samples)
    random = np.random.default_rng(0)  # the jitter is layout: alike in every run
    for x, (sample, body, fill) in enumerate(
        zip(samples, drawn["bodies"], CATEGORIES, strict=True), start=1
    ):
        body.set_facecolor(fill)
        axes.plot(random.normal(x, 0.03, len(sample)), sample, ".", color=(*fill, 0.6))
    for part in ("cbars", "cmins", "cmaxes"):
        drawn[part].set_edgecolor(ink())
    axes.axhline(0, linestyle="--", linewidth=0.2, color=ink())
    test = last.sel(test="student")
    said = f"t={test['t'].item():.2f}, p={test['p'].item():.3f}".replace("-", "−")
    if np.isnan(test["t"].item()):
        said = "they vary by rounding alone"
    axes.set(xticks=[1, 2], xticklabels=[name.capitalize() for name in means.attrs["labels"]])
    axes.set(xlim=(0.5, 2.5), ylabel="Mean [CLS] activation", title=f"Mean [CLS] acts ({said})")
    return figure


def splits(splits: xr.Dataset, *, limits: Limits, ax: Axes | None = None) -> Figure:
    """Draw the accuracies of `splits`, one after another; source: project 30, part 4.

    Args:
        splits: the statistic.
        limits: ends of the y axis.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (10, 4), layout="tight")
    runs = np.arange(splits.sizes["run"])
    for name, marker, fill in (("train", "o", TRAIN), ("test", "s", TEST)):
        accuracy = splits[name].values
        _marks(axes, runs, accuracy, marker, fill, name.capitalize())
        axes.axhline(accuracy.mean(), linestyle="--", color=fill, zorder=-3)
    axes.set(ylim=limits, xlabel="Run", ylabel="Accuracy")
    axes.set(title="Variability due to random data splitting")
    axes.locator_params("x", integer=True)
    axes.legend()
    return figure


def importances(splits: xr.Dataset, *, n: Count, ax: Axes | None = None) -> Figure:
    """Draw the importances of the last run's tree in `splits`; source: project 30, part 4.

    Args:
        splits: the statistic.
        n: how many components are drawn, the most important first.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (10, 3), layout="tight")
    importance = splits["importance"].values
    order = np.argsort(importance)[::-1][:n]
    heights = importance[order]
    colours = mpl.colormaps[DEPTH](heights / (heights.max() or 1))
    axes.bar(range(len(order)), heights, color=colours, edgecolor=ink())
    axes.set(xticks=range(len(order)), ylabel="Importance")
    axes.set_xticklabels([f"PC{number + 1}" for number in order], rotation=45)
    axes.set(title=f"Feature importances (top {len(order)} PCs)")
    return figure


def tree(splits: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw the last run's tree in `splits`; source: project 30, part 4.

    Args:
        splits: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (14, 7), layout="tight")
    left, right, n = (splits[name].values for name in ("left", "right", "n"))
    places: dict[int, tuple[float, int]] = {}
    width = 0

    def place(node: int, depth: int) -> float:
        """Where a node stands: a leaf beside the one before, any other above its two."""
        nonlocal width
        if left[node] < 0:
            x, width = float(width), width + 1
        else:
            x = (place(left[node], depth + 1) + place(right[node], depth + 1)) / 2
        places[node] = (x, -depth)
        return x

    place(0, 0)
    names = splits["label"].values
    for node, at in places.items():
        for child in (left[node], right[node]):
            if child >= 0:
                (x, y), (below_x, below_y) = at, places[child]
                axes.plot([x, below_x], [y, below_y], color=ink(), linewidth=0.8, zorder=0)
        lines = [", ".join(map(str, n[node])), f"gini {splits['impurity'].values[node]:.2f}"]
        if left[node] >= 0:
            split = f"PC{splits['feature'].values[node] + 1} ≤ "
            threshold = f"{splits['threshold'].values[node]:.3g}".replace("-", "−")
            lines.insert(0, split + threshold)
        larger = int(n[node, 1] > n[node, 0])
        box = {"boxstyle": "round", "facecolor": CATEGORIES[larger], "edgecolor": ink()}
        axes.text(*at, "\n".join(lines), ha="center", va="center", fontsize=9, bbox=box, color="k")
    axes.set(xlim=(-0.6, width - 0.4), ylim=(min(y for _, y in places.values()) - 0.5, 0.5))
    axes.set_title(f"Training texts at each node: {', '.join(names)}; left where true")
    axes.set_axis_off()
    return figure


def means(means: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw the mean activations of `means` in all hidden states; source: project 30, part 5.

    Args:
        means: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (10, 4), layout="tight")
    mean, label = means["mean"].values, means["label"].values
    random = np.random.default_rng(0)  # the jitter is layout: alike in every run
    for number, (name, marker) in enumerate(zip(means.attrs["labels"], "os", strict=True)):
        values = mean[:, label == number]
        x = np.arange(len(mean))[:, None] + (-0.2, 0.2)[number]
        axes.plot(
            random.normal(x, 0.03, values.shape).flatten(),
            values.flatten(),
            marker,
            markersize=min(6, 200 / len(mean)),
            markerfacecolor=(*CATEGORIES[number], 0.8),
            markeredgecolor=ink(),
            markeredgewidth=0.4,
            label=name.capitalize(),
            rasterized=values.size > 2000,
        )
    sparse_ticks(axes.xaxis, means["hidden"].values, most=26)
    axes.set(
        xlabel="Hidden layer", ylabel="[CLS] activation (mean)", title="Mean [CLS] activations"
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def laminar_accuracy(laminar_accuracy: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw `laminar_accuracy` over the hidden states; source: project 30, part 6.

    Args:
        laminar_accuracy: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (10, 4), layout="tight")
    hidden = laminar_accuracy["hidden"].values
    x = np.arange(len(hidden))
    for name, marker, fill in (("train", "s", FILLS[1]), ("test", "o", FILLS[2])):
        look = {"linestyle": "-", "linewidth": 0.2}
        _marks(axes, x, laminar_accuracy[name].values, marker, fill, name.capitalize(), **look)
    axes.plot(
        x,
        laminar_accuracy["cross_validated"].values,
        color=ink(),
        linewidth=1.2,
        label="Cross-validated",
    )
    low, high = (laminar_accuracy[name].values for name in ("null_mean", "null_high"))
    axes.fill_between(x, low, high, color="0.7", alpha=0.5, linewidth=0)
    axes.plot(x, low, color="0.5", label="Permuted labels:\nmean to 95th percentile")
    sparse_ticks(axes.xaxis, hidden, most=26)
    axes.set(xlabel="Hidden state layer", ylabel="Accuracy", title="Classification by layer")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def improvement(improvement: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw the line of `improvement`; source: project 30, part 7.

    Args:
        improvement: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (10, 4), layout="tight")
    x = improvement["n_blocks"].values
    axes.plot(x, improvement["fit"].values, color=ink(), label="Linear fit")
    look = {"linestyle": "-", "linewidth": 0.2}
    _marks(axes, x, improvement["accuracy"].values, "o", FILLS[2], "Data", **look)
    slope, low, high = (100 * improvement[name].item() for name in ("slope", "low", "high"))
    share = 100 * (1 - improvement.attrs["alpha"])
    axes.set(xlabel="Number of transformer blocks", ylabel="Test accuracy")
    said = f"{slope:+.2f} points per block ({share:g}%: {low:+.2f} to {high:+.2f})"
    axes.set_title(f"Accuracy and depth: {said}".replace("-", "−"))
    axes.locator_params("x", integer=True)
    axes.legend(loc="best")
    return figure


def _marks(
    axes: Axes,
    x: np.ndarray,
    y: np.ndarray,
    marker: str,
    fill: tuple[float, float, float],
    label: str,
    **line: Any,
) -> None:
    """Draw outlined markers, as large as there is room for."""
    size = min(12, 300 / len(y))
    look: dict[str, Any] = {"linestyle": "", "color": ink()} | line
    axes.plot(x, y, marker=marker, markersize=size, markerfacecolor=fill, label=label, **look)
