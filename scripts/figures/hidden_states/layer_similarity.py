"""Cosine similarity of all hidden states of a token, for some tokens."""

import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.panels import cosine_matrices, sparse_ticks, token_label
from microtome.figures.style import save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job


def draw(similarities: xr.Dataset, *, limits: tuple[float, float]) -> Figure:
    """Draw the matrices of `layer_similarity`; source: LLM breakdown 4/6, demo 2.

    Args:
        similarities: the statistic.
        limits: the similarities at the ends of the colour scale.
    """
    titles = [f'CS matrix for "{token_label(text)}"' for text in similarities["text"].values]
    figure = Figure(figsize=(3 * len(titles), 3), layout="constrained")
    row = cosine_matrices(figure, titles, similarities["cosine"].values, limits)
    for axes in row:
        for axis in (axes.xaxis, axes.yaxis):
            sparse_ticks(axis, similarities["hidden"].values, most=6)
    row[0].set(xlabel="Hidden layer (model depth)", ylabel="Hidden layer (model depth)")
    return figure


if __name__ == "__main__":
    with job(snakemake):
        similarities = read_dataset(snakemake.input.layer_similarity)
        with style(snakemake.params.style["theme"], similarities["text"].values):
            figure = draw(similarities, **snakemake.params.options)
            save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
