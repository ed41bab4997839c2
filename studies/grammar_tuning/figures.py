"""Figures of the study on grammar tuning; see README.md."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from microtome.figures import text
from microtome.figures.labels import site_definition
from microtome.figures.panels import colour_bar_ends, panel
from microtome.figures.style import ink
from microtome.options import Limits

#: Inches: the figure's width, its margin, and what a panel's title takes.
WIDTH, MARGIN, TITLE = 10, 0.25, 0.7


def word_activations(word_activations: xr.Dataset, *, limits: Limits) -> Figure:
    """Draw every word of the first category, and the mean of the second; source: exercise 3.

    Args:
        word_activations: the statistic `word_activations`.
        limits: the activations at the ends of the colour scale.
    """
    figure = Figure(figsize=(12, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    first, second = list(dict.fromkeys(word_activations["category"].values))[:2]
    activation = word_activations["activation"]
    each = activation.values[word_activations["category"].values == first]
    image = left.imshow(
        each, aspect="auto", vmin=limits[0], vmax=limits[1], interpolation="nearest"
    )
    left.set(xlabel="Neuron", ylabel=f"{first.capitalize()}s (index)")
    left.set(title=f"A) Activations of {first}s")
    figure.colorbar(image, ax=left, pad=0.01, extend=colour_bar_ends(each, limits))
    mean = activation.values[word_activations["category"].values == second].mean(axis=0)
    right.plot(
        mean,
        "o",
        color=ink(),
        markeredgewidth=0.5,
        markerfacecolor=(0.7, 0.7, 0.7, 0.6),
        rasterized=len(mean) > 2000,
    )
    right.margins(x=0.01)
    right.set(xlabel="Neuron", ylabel="Activation")
    right.set(title=f"B) Mean activations over all {second}s")
    figure.suptitle(f"Layer {word_activations.attrs['layer']}, {site_definition(word_activations)}")
    return figure


def t_tests(t_tests: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw the t of every neuron's paired test; source: exercise 4.

    Args:
        t_tests: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (10, 4), layout="tight")
    paired = t_tests.sel(test="paired")
    t = paired["t"].values
    significant = paired["significant"].sel(correction="bonferroni").values == 1
    for label, chosen, marker, size, fill in (
        ("Non-significant", ~significant, "rs", 4, (0.9, 0.6, 0.6)),
        ("Significant", significant, "bo", 6, (0.5, 0.5, 0.9)),
    ):
        axes.plot(
            np.flatnonzero(chosen),
            t[chosen],
            marker,
            markersize=size,
            markeredgewidth=0.7,
            markerfacecolor=fill,
            label=f"{label} ({chosen.sum()})",
            rasterized=len(t) > 2000,
        )
    first, second = (name.upper() for name in t_tests["category"].values)
    axes.margins(x=0.01)
    axes.set(xlabel="Neuron", ylabel="T-value")
    title = f"{first} minus {second} in the neurons of layer {t_tests.attrs['layer']}"
    axes.set(title=f"{title} (paired t, Bonferroni)\n{site_definition(t_tests)}")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def text_heatmap(text_tuning: xr.Dataset) -> Figure:
    """Draw the text once per neuron of `text_tuning`; source: exercise 5."""
    texts = text_tuning["text"].values.tolist()
    width = WIDTH - 2 * MARGIN
    height = text.text_height(texts, 72 * width) / 72
    total = 2 * (TITLE + height) + MARGIN
    figure = Figure(figsize=(WIDTH, total))
    for number, (category, cmap) in enumerate(
        zip(text_tuning["category"].values, ("Reds", "Blues"), strict=True)
    ):
        bottom = total - (number + 1) * (TITLE + height)
        axes = figure.add_axes(
            (MARGIN / WIDTH, bottom / total, width / WIDTH, height / total),
        )
        chosen = text_tuning.sel(category=category)
        text.text_heatmap(axes, texts, chosen["scaled"].values, cmap)
        neuron, t = chosen["neuron"].item(), chosen["t"].item()
        lowest, highest = chosen["activation"].min().item(), chosen["activation"].max().item()
        axes.set_title(
            f"{'AB'[number]}) {category.capitalize()}-tuned neuron {neuron} of layer "
            f"{text_tuning.attrs['layer']} (t = {t:.1f}), "
            f"activation {lowest:.2f} (pale) to {highest:.2f}\n{site_definition(text_tuning)}",
            loc="left",
        )
    return figure
