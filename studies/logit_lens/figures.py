"""Figures of the study on the logit lens; see README.md."""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from microtome.figures.panels import heatmap, panel, sparse_ticks, token_label
from microtome.figures.style import FILLS, ink
from microtome.options import Limits

#: The most characters of a predicted token that there is room for.
MOST_CHARACTERS = 13


def vocabulary_seen(seen: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw all log-probabilities at a token that the model sees; source: project 31, part 1.

    Args:
        seen: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    token, hidden = token_label(seen["text"].item()), seen.attrs["hidden"]
    figure, axes = panel(ax, (10, 3.2), layout="tight")
    ids = (seen["top_token_id"].item(), seen["token_id"].item())
    _vocabulary(
        axes, seen["log_probability"].values, *ids, seen["top_text"].item(), f'"{token}" itself'
    )
    axes.set(title=f'Log-probabilities at the token "{token}", which is seen ({hidden})')
    return figure


def vocabulary_unseen(predictions: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw all log-probabilities in the place of an unseen token; source: project 31, part 2.

    Args:
        predictions: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (10, 3.2), layout="tight")
    chosen = predictions.isel(token=predictions.attrs["chosen"], hidden=-2)
    token, hidden = token_label(chosen["text"].item()), chosen["hidden"].item()
    ids = (chosen["top_token_id"].item(), chosen["token_id"].item())
    _vocabulary(axes, chosen["vocabulary"].values, *ids, chosen["top_text"].item(), f'"{token}"')
    axes.set(title=f'Log-probabilities in the place of "{token}", {_way(predictions)} ({hidden})')
    return figure


def target_profile(
    predictions: xr.Dataset, slopes: xr.Dataset, *, ax: Axes | None = None
) -> Figure:
    """Draw the target's log-probability over the hidden states; source: project 31, part 3.

    Args:
        predictions: the statistic.
        slopes: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    figure, axes = panel(ax, (11, 4.5), layout="tight")
    chosen = predictions.isel(token=predictions.attrs["chosen"])
    fit = slopes.sel(of="target").isel(token=predictions.attrs["chosen"])
    const, slope, low, high = (fit[name].item() for name in ("const", "slope", "low", "high"))
    k = np.arange(chosen.sizes["hidden"])
    sign = "-" if slope < 0 else "+"
    equation = rf"$\hat{{y}} = {const:.3f} {sign} {abs(slope):.3f}\sqrt{{k}}$"
    share = 1 - slopes.attrs["alpha"]
    label = f"{equation}\n{share:.0%} interval of the slope:\n{low:.2f} to {high:.2f}"
    axes.plot(k, const + slope * np.sqrt(k), "r", label=label)
    axes.plot(
        k,
        chosen["log_probability"].values,
        "o",
        color=ink(),
        markersize=min(10, 300 / len(k)),
        markerfacecolor=FILLS[1],
    )
    sparse_ticks(axes.xaxis, chosen["hidden"].values, most=16)
    token = token_label(chosen["text"].item())
    axes.set(xlabel="Hidden state k (model depth)", ylabel="Log-probability")
    axes.set(title=f'Lens in the place of "{token}", {_way(predictions)}')
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def lens_images(
    predictions: xr.Dataset, slopes: xr.Dataset, *, target_limits: Limits, top_limits: Limits
) -> Figure:
    """Draw the lens of all tokens, and its slopes; source: project 31, part 5.

    Args:
        predictions: the statistic.
        slopes: the statistic.
        target_limits: the log-probabilities at the ends of the target's colour scale.
        top_limits: the same of the most likely token's.
    """
    figure = Figure(figsize=(14, 4.8), layout="constrained")
    row = figure.subplots(1, 3, gridspec_kw={"wspace": 0.06})
    tokens = [token_label(text) for text in predictions["text"].values]
    for axes, name, limits, title in (
        (row[0], "log_probability", target_limits, "A) Target token"),
        (row[1], "top_log_probability", top_limits, "B) Most likely token"),
    ):
        heatmap(axes, predictions[name].values, limits, "Log-probability", pad=0.02)
        sparse_ticks(axes.yaxis, predictions["hidden"].values, most=16)
        axes.set(ylabel="Hidden state", title=title)
    places, colour = np.arange(len(tokens)), (0.5, 0.5, 0.5)
    for of, marker, fill, label, shift in (
        ("target", "o", FILLS[2], "Target", -0.12),
        ("top", "s", FILLS[0], "Most likely", 0.12),
    ):
        fit = slopes.sel(of=of)
        row[2].vlines(places + shift, fit["low_hac"].values, fit["high_hac"].values, colour)
        row[2].plot(
            places + shift,
            fit["slope"].values,
            marker,
            color=ink(),
            markersize=min(9, 150 / len(tokens)),
            markerfacecolor=fill,
            label=label,
        )
    row[2].axhline(0, linestyle="--", color="gray", linewidth=0.6, zorder=-30)
    row[2].set(ylabel=r"Slope ($\beta_1$)", title="C) Regression slopes")
    figure.legend(
        *row[2].get_legend_handles_labels(), loc="outside lower right", ncols=2, frameon=False
    )
    for axes in row:
        sparse_ticks(axes.xaxis, tokens, most=40)
        axes.tick_params(axis="x", rotation=90)
    return figure


def predicted_tokens(predictions: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Draw the most likely token of each hidden state and place; source: project 31, part 6.

    Colours go from the least to the largest log-probability of a most likely token.

    Args:
        predictions: the statistic.
        ax: axes to draw on, in the place of a figure of its own.
    """
    hidden, n_tokens = predictions["hidden"].values, predictions.sizes["token"]
    figure, axes = panel(ax, (1 + 1.15 * n_tokens, 1 + 0.34 * len(hidden)), layout="tight")
    values = predictions["top_log_probability"].values
    spread = np.ptp(values)
    scaled = (values - values.min()) / (spread or 1)
    colours = mpl.colormaps["Reds"](scaled)
    box = {"boxstyle": "round,pad=0.3", "edgecolor": "none", "alpha": 0.5}
    texts, right = predictions["top_text"].values, predictions["rank"].values == 1
    for y, x in np.ndindex(values.shape):
        axes.text(
            x,
            y,
            _short(str(texts[y, x])),
            ha="center",
            va="center",
            fontsize=9,
            fontweight="bold" if right[y, x] else "normal",
            bbox=box | {"facecolor": colours[y, x]},
        )
    for y, label in enumerate([*hidden, "Target"]):
        weight = "bold" if label == "Target" else "normal"
        axes.text(-0.6, y, label, ha="right", va="center", fontweight=weight)
    for x, text in enumerate(predictions["text"].values):
        axes.text(x, len(hidden), _short(text), ha="center", va="center", fontweight="bold")
    axes.set(xlim=(-1.1, n_tokens - 0.4), ylim=(len(hidden) + 0.6, -0.6))
    axes.set_axis_off()
    return figure


def _vocabulary(
    axes: Axes, log_probability: np.ndarray, top_id: int, token_id: int, top: str, token: str
) -> None:
    """Draw the log-probabilities of a vocabulary, and mark the most likely and another token."""
    axes.plot(log_probability, ".", color=ink(), alpha=0.3, markersize=4, rasterized=True)
    axes.plot(
        token_id,
        log_probability[token_id],
        "D",
        color="b",
        markersize=8,
        markerfacecolor=FILLS[2],
        label=f"{token}: {log_probability[token_id]:.2f}",
    )
    axes.plot(
        top_id,
        log_probability[top_id],
        "ro",
        markersize=7,
        label=f'Most likely, "{_short(top)}": {log_probability[top_id]:.2f}',
    )
    edge = 0.003 * len(log_probability)
    axes.set(xlabel="Token index", ylabel="Log-probability")
    axes.set(xlim=(-edge, len(log_probability) + edge))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def _short(text: str) -> str:
    """A token's label, cut where it is long."""
    label = token_label(text)
    return label if len(label) <= MOST_CHARACTERS else label[: MOST_CHARACTERS - 1] + "…"


def _way(predictions: xr.Dataset) -> str:
    """Why the model does not see the token whose place is predicted."""
    return "masked" if predictions.attrs["masked"] else "from the token before"
