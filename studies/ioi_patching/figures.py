"""Figures of the study on patching in indirect object identification; see README.md."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from microtome.figures.panels import panel, token_label
from microtome.figures.style import FILLS, LINES, ink
from microtome.options import Positive
from microtome.statistics.sigmoid import sigmoid

#: How the name that is named first is drawn, and the other one: colour and marker.
NAMES = ((LINES[1], "o"), (LINES[0], "s"))
#: The name that a text repeats: of texts of even numbers the first one, of the others the second.
REPEATED = ("first", "second")
#: How data that are fitted are drawn.
DATA: Mapping[str, Any] = {"linestyle": "none", "marker": "o", "markerfacecolor": FILLS[3]}
#: How far labels are from what they label, in points.
ASIDE = 3
#: Room beside a panel that has an axis label, as a share of the figure's width.
GAP = 0.03


def logits(vocabulary_logits: xr.Dataset) -> Figure:
    """Draw the clean logits after both texts, one by one and together; source: project 32, part 1.

    Args:
        vocabulary_logits: the statistic.
    """
    figure = Figure(figsize=(12, 3.2), layout=ConstrainedLayoutEngine(wspace=GAP))
    left, middle, right = figure.subplots(1, 3, width_ratios=(2, 2, 1))
    for axes, text, letter in ((left, "receiver", "A"), (middle, "giver", "B")):
        _vocabulary(axes, vocabulary_logits, vocabulary_logits[text].values)
        axes.set(ylabel="Logit", title=f"{letter}) … {_text(vocabulary_logits, text)} …")
    _same_height(left, middle)
    x, y = vocabulary_logits["giver"].values, vocabulary_logits["receiver"].values
    right.plot(x, y, ".", color=ink(), alpha=0.15, markersize=2, rasterized=True)
    right.axline((0, 0), slope=1, linestyle="--", color="gray", linewidth=0.5)
    _mark_names(right, vocabulary_logits, x[vocabulary_logits["name_id"].values], y)
    texts = [_initials(vocabulary_logits, repeated) for repeated in ("giver", "receiver")]
    right.set(xlabel=f"{texts[0]} logits", ylabel=f"{texts[1]} logits")
    right.set(title=f"C) {' vs. '.join(texts)}")
    return figure


def patched_logits(vocabulary_logits: xr.Dataset, *, limit: Positive) -> Figure:
    """Draw logits with one layer patched, and what it changes; source: project 32, part 2.

    Args:
        vocabulary_logits: the statistic.
        limit: where the axis of differences ends at most, on both sides of 0.
    """
    figure = Figure(figsize=(12, 3.2), layout=ConstrainedLayoutEngine(wspace=GAP))
    clean, patched, change = figure.subplots(1, 3)
    _vocabulary(clean, vocabulary_logits, vocabulary_logits["receiver"].values)
    clean.set(ylabel="Logit", title="A) Clean model")
    _vocabulary(patched, vocabulary_logits, vocabulary_logits["patched"].values)
    patched.set(ylabel="Logit", title=f"B) L{vocabulary_logits.attrs['layer']} patched")
    _same_height(clean, patched)
    difference = vocabulary_logits["receiver"].values - vocabulary_logits["patched"].values
    _vocabulary(change, vocabulary_logits, difference)
    end = min(limit, 1.25 * np.abs(difference).max().item() or limit)
    n_beyond = int((np.abs(difference) > end).sum())
    left_out = f"\n({n_beyond:,} beyond)" if n_beyond else ""
    change.set(ylabel=f"Clean minus patched logit{left_out}")
    change.set(ylim=(-end, end), title="C) Manipulation effect")
    for height, text in ((0.98, "↑ suppressed"), (0.02, "↓ boosted")):
        align = "top" if height > 0.5 else "bottom"
        change.text(0.02, height, text, va=align, fontsize=9, transform=change.transAxes)
    return figure


def ioi_scores(ioi_scores: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw the scores of the first pair of texts over the layers; source: project 32, part 3.

    Args:
        ioi_scores: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (11, 4), layout="constrained")
    pair = ioi_scores.isel(pair=0)
    _clean_scores(axes, pair)
    values = pair["score"].values
    layers = pair["layer"].values
    axes.plot(layers[:-1], values[:-1], color=ink(), markersize=10, label="Patched", **DATA)
    last: Any = {"color": LINES[0], "markersize": 9, "markeredgewidth": 2, "linestyle": "none"}
    axes.plot(layers[-1], values[-1], marker="x", label="Last layer", **last)
    _preferences(axes, pair)
    axes.set(title="Laminar profile of patch manipulation")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def simulated_data(simulated_data: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw data around a sigmoid; source: project 32, part 4.

    Args:
        simulated_data: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (11, 4), layout="constrained")
    x, y = simulated_data["x"].values, simulated_data["y"].values
    axes.plot(x, y, color=ink(), markersize=10, **DATA)
    axes.set(xlabel="x", ylabel="y", title="Simulated data")
    return figure


def simulated_fit(
    simulated_data: xr.Dataset, simulated_fit: xr.Dataset, *, ax: Axes | None = None
) -> Figure:
    """Draw the sigmoid fitted to the data; source: project 32, part 4.

    Args:
        simulated_data: the statistic.
        simulated_fit: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (11, 4), layout="constrained")
    x, y = simulated_data["x"].values, simulated_data["y"].values
    axes.plot(x, y, color=ink(), markersize=10, label="Data", **DATA)
    _fitted(axes, x, simulated_fit, "")
    axes.set(xlabel="x", ylabel="y", title="Sigmoid fit to data")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def score_fit(
    ioi_scores: xr.Dataset,
    score_fits: xr.Dataset,
    name_fits: xr.Dataset,
    *,
    ax: Axes | None = None,
) -> Figure:
    """Draw the sigmoid fitted to the scores; source: project 32, part 5.

    Args:
        ioi_scores: the statistic.
        score_fits: the statistic.
        name_fits: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (11, 4), layout="constrained")
    pair = ioi_scores.isel(pair=0)
    _clean_scores(axes, pair)
    layers, values = pair["layer"].values[:-1], pair["score"].values[:-1]
    axes.plot(layers, values, color=ink(), markersize=10, label="Patched", **DATA)
    _fitted(axes, layers, score_fits.isel(pair=0), "L")
    _midpoints_of_others(axes, score_fits.isel(pair=0), name_fits)
    _preferences(axes, pair)
    axes.set(title="Data and sigmoid fit")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def name_effect(
    name_effect: xr.Dataset, ioi_scores: xr.Dataset, *, ax: Axes | None = None
) -> Figure:
    """Draw the mean effect over other names, beside that of the first ones; an addition.

    Args:
        name_effect: the statistic.
        ioi_scores: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (11, 4), layout="constrained")
    layers = name_effect["layer"].values
    names = [ioi_scores[place].values[0].strip() for place in ("first", "second")]
    for repeated, colour, marker in zip(REPEATED, (LINES[0], LINES[2]), "so", strict=True):
        chosen = name_effect.sel(repeated=repeated)
        label = f"{repeated.capitalize()} name repeated"
        axes.plot(layers, chosen["mean"].values, color=colour, label=f"{label}: mean")
        axes.fill_between(
            layers,
            chosen["low"].values,
            chosen["high"].values,
            color=colour,
            alpha=0.2,
            linewidth=0,
        )
        own = ioi_scores["receiver"].values % 2 == REPEATED.index(repeated)
        for effect in ioi_scores["effect"].values[own]:
            axes.plot(
                layers,
                effect,
                marker,
                color=colour,
                markersize=4,
                markerfacecolor="none",
                label=f"{label}: {' and '.join(names)}",
            )
    axes.axhline(0, linestyle="--", color="gray", linewidth=0.5)
    _layer_axis(axes)
    level = f"{1 - name_effect.attrs['alpha']:.0%}"
    axes.set(ylabel="Effect of the patch (logits)")
    axes.set(title=f"Effect with other names (bands: {level} interval of the mean)")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def _vocabulary(axes: Axes, logits: xr.Dataset, values: np.ndarray) -> None:
    """Draw a value for each token of the vocabulary, (d_vocab,), the names among them."""
    ids = np.arange(len(values))
    axes.plot(ids, values, ".", color=ink(), alpha=0.15, markersize=2, rasterized=True)
    _mark_names(axes, logits, logits["name_id"].values, values)
    axes.set(xlabel="Vocabulary index", xlim=(-100, len(values) + 100))
    # Above all tokens, where it hides none.
    axes.margins(y=0.2)
    axes.legend(fontsize=8, loc="upper right", ncols=2)


def _same_height(*row: Axes) -> None:
    """Give panels the limits that hold the values of all."""
    ends = [axes.get_ylim() for axes in row]
    for axes in row:
        axes.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))


def _mark_names(axes: Axes, logits: xr.Dataset, x: np.ndarray, values: np.ndarray) -> None:
    """Mark the names at x, (name,), with their values of all tokens, (d_vocab,)."""
    names, ids = logits["name"].values, logits["name_id"].values
    for name, at, token, (colour, marker) in zip(names, x, ids, NAMES, strict=True):
        axes.plot(
            at,
            values[token],
            marker,
            color=colour,
            markeredgecolor=ink(),
            markeredgewidth=0.5,
            label=f'"{token_label(name.strip())}"',
            zorder=3,
        )


def _text(logits: xr.Dataset, text: str) -> str:
    """The end of a text, as the text shows it: tokens' spaces are spaces."""
    return logits.attrs[f"{text}_text"].replace("$", r"\$")


def _initials(statistic: xr.Dataset, text: str) -> str:
    """The initials of the name that a text repeats and of the other one, as in EM."""
    names = [name.strip() for name in statistic["name"].values.tolist()]
    repeated = next(name for name in names if statistic.attrs[f"{text}_text"].startswith(name))
    other = next(name for name in names if name != repeated)
    return f"{repeated[0]}{other[0]}"


def _clean_scores(axes: Axes, pair: xr.Dataset) -> None:
    """Draw the scores of both texts in the clean run."""
    names = [pair[place].item().strip() for place in ("first", "second")]
    for text, variable, colour in (
        ("receiver", "clean", LINES[2]),
        ("giver", "clean_giver", LINES[0]),
    ):
        repeated = pair[text].item() % 2
        label = f'Clean "{names[repeated][0]}{names[1 - repeated][0]}"'
        axes.axhline(pair[variable].item(), color=colour, label=label)


def _preferences(axes: Axes, pair: xr.Dataset) -> None:
    """Draw the line between both preferences, and label the axes."""
    axes.axhline(0, linestyle="--", color="gray", linewidth=0.5)
    # At the end where scores are farther from the line.
    size, n = np.abs(pair["score"].values), max(1, pair.sizes["layer"] // 5)
    at_end = size[-n:].min() > size[:n].min()
    for place, above, align in (("first", 1, "bottom"), ("second", -1, "top")):
        axes.annotate(
            f'Prefer "{token_label(pair[place].item().strip())}"',
            (pair["layer"].values[-1 if at_end else 0], 0),
            (0, above * ASIDE),
            textcoords="offset points",
            fontsize=12,
            va=align,
            ha="right" if at_end else "left",
        )
    _layer_axis(axes)
    first, second = (token_label(pair[place].item().strip()) for place in ("first", "second"))
    axes.set(ylabel=f"IOI score (logit of {first} − {second})")


def _layer_axis(axes: Axes) -> None:
    axes.locator_params("x", integer=True)
    axes.margins(x=0.02)
    axes.set(xlabel="Transformer layer (index)")


def _fitted(axes: Axes, x: np.ndarray, fit: xr.Dataset, prefix: str) -> None:
    """Draw a fit and its midpoint; say so where there is none, or where it lies beyond the data."""
    estimate = fit["estimate"].values
    if not np.isfinite(estimate).all():
        axes.plot([], [], " ", label="No sigmoid fits")
        return
    fine = np.linspace(x[0], x[-1], 400)
    label = f"Model (R² = {fit['r_squared'].item():.2f})"
    axes.plot(fine, sigmoid(fine, *estimate), color=LINES[1], linewidth=2, label=label)
    midpoint = fit.sel(parameter="x0")
    value, low, high = (midpoint[name].item() for name in ("estimate", "low", "high"))
    label = f"x0 ({prefix}{value:.1f})"
    if not x[0] <= value <= x[-1]:
        axes.plot([], [], " ", label=f"{label}, beyond")
        return
    axes.axvline(value, color=LINES[3], linestyle="--", label=label)
    if np.isfinite([low, high]).all():
        ends = np.clip([low, high], x[0], x[-1])
        level = f"{1 - fit.attrs['alpha']:.0%} interval"
        axes.axvspan(*ends, color=LINES[3], alpha=0.12, linewidth=0, label=level)


def _midpoints_of_others(axes: Axes, fit: xr.Dataset, name_fits: xr.Dataset) -> None:
    """Draw the mean midpoint with other names, and its interval, at half the height of a fit."""
    repeated = REPEATED[fit["receiver"].item() % 2]
    others = name_fits.sel(repeated=repeated, parameter="x0")
    mean, low, high = (others[name].item() for name in ("mean", "low_mean", "high_mean"))
    if not np.isfinite([mean, low, high]).all() or not np.isfinite(fit["estimate"].values).all():
        return
    n_pairs = int((name_fits["receiver"] % 2 == fit["receiver"] % 2).sum())
    limits = axes.get_xlim()  # the interval may be wider
    height, start = (fit["estimate"].sel(parameter=name).item() for name in ("A", "b"))
    axes.errorbar(
        mean,
        start + height / 2,
        xerr=[[mean - low], [high - mean]],
        fmt="D",
        color=ink(),
        markersize=5,
        capsize=4,
        label=f"x0, {int(others['n'])} of {n_pairs} other pairs",
    )
    axes.set_xlim(limits)
