"""Cosine similarity of all tokens, in some hidden states."""

import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.panels import cosine_matrices, sparse_ticks, token_label
from microtome.figures.style import save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job


def draw(similarities: xr.Dataset, *, limits: tuple[float, float]) -> Figure:
    """Draw the matrices of `token_similarity`; source: LLM breakdown 4/6, demo 2.

    Args:
        similarities: the statistic.
        limits: the similarities at the ends of the colour scale.
    """
    titles = [f"CS matrix for {hidden}" for hidden in similarities["hidden"].values]
    figure = Figure(figsize=(3 * len(titles), 3), layout="constrained")
    tokens = [token_label(text) for text in similarities["text"].values]
    for axes in cosine_matrices(figure, titles, similarities["cosine"].values, limits):
        sparse_ticks(axes.xaxis, tokens, most=14)
        sparse_ticks(axes.yaxis, tokens, most=14)
        axes.tick_params(axis="x", rotation=90)
    return figure


if __name__ == "__main__":
    with job(snakemake):
        similarities = read_dataset(snakemake.input.token_similarity)
        with style(snakemake.params.style["theme"], similarities["text"].values):
            figure = draw(similarities, **snakemake.params.options)
            save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
