"""Tokens before and after an MLP, at one layer: t-SNE of both, and value against value."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from microtome.figures.panels import dots, token_label
from microtome.figures.style import DEPTH, ink, save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job

#: Fill colour of the scatter plot.
FILL = (0.7, 0.9, 0.9)
#: Area of a token's marker, in square points.
MARKER = 100
#: Where a label may stand by its marker: the offset in points and what of it is aligned there.
ASIDE = (
    ((0, 7), "center", "bottom"),
    ((0, -7), "center", "top"),
    ((8, 0), "left", "center"),
    ((-8, 0), "right", "center"),
)


def draw(points: xr.Dataset) -> Figure:
    """Draw both embeddings and the scatter of `tsne`; source: project 42, part 5."""
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    figure.get_layout_engine().set(wspace=0.04)
    *maps, scatter = figure.subplots(1, 3)
    sites, embeddings = points["site"].values, points["embedding"].values
    for axes, embedding, name, site in zip(
        maps, embeddings, ("A) Input", "B) Projection"), sites, strict=True
    ):
        tokens = axes.scatter(
            *embedding.T,
            s=MARKER,
            c=np.arange(len(embedding)),
            marker="h",
            edgecolors=ink(),
            cmap=DEPTH,
        )
        axes.margins(0.15)
        axes.set(xlabel="TSNE dim 1", ylabel="TSNE dim 2", title=f"{name} ({site})")
        figure.colorbar(tokens, ax=axes, pad=0.02, label="Token index", ticks=[])
    dots(
        scatter,
        *points[points["pair"].item()].values,
        FILL,
        xlabel="Stage 1 (input)",
        ylabel="Stage 4 (projection)",
        title=f"C) Scatter plot (r = {points['r'].item():.3f})",
    )
    figure.draw_without_rendering()  # lays out the panels: labels are placed by what is beside them
    labels = [token_label(text) for text in points["text"].values]
    for axes, embedding in zip(maps, embeddings, strict=True):
        label_points(axes, embedding, labels)
    return figure


def label_points(axes: Axes, places: np.ndarray, labels: Sequence[str]) -> None:
    """Label markers so that no label covers another or a marker, as far as there is room.

    Args:
        axes: where, with its final size and limits.
        places: of the markers, (label, 2).
        labels: their labels.
    """
    radius = np.sqrt(MARKER) / 2 * axes.figure.dpi / 72
    taken = [
        Bbox([centre - radius, centre + radius]) for centre in axes.transData.transform(places)
    ]
    for label, place in zip(labels, places, strict=True):
        text = axes.annotate(
            label, place, (0, 0), textcoords="offset points", fontsize=9, in_layout=False
        )

        def covered(aside: tuple, text: Annotation = text) -> int:
            text.xyann = aside[0]
            text.set(ha=aside[1], va=aside[2])
            box = text.get_window_extent()
            outside = box.x0 < axes.bbox.x0 or box.x1 > axes.bbox.x1
            return box.count_overlaps(taken) + 2 * outside

        covered(min(ASIDE, key=covered))
        taken.append(text.get_window_extent())


if __name__ == "__main__":
    with job(snakemake):
        points = read_dataset(snakemake.input.tsne)
        with style(snakemake.params.style["theme"], points["text"].values):
            figure = draw(points, **snakemake.params.options)
            save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
