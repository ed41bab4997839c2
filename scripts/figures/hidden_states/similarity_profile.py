"""Laminar profile of the cosine similarities between tokens."""

import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.panels import sparse_ticks, strips
from microtome.figures.style import save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job


def draw(profile: xr.Dataset) -> Figure:
    """Draw `similarity_profile` over the hidden states; source: LLM breakdown 4/6, demo 2."""
    figure = Figure(figsize=(10, 4), layout="tight")
    axes = figure.subplots()
    strips(axes, profile["cosine"].values)
    sparse_ticks(axes.xaxis, profile["hidden"].values, most=16)
    axes.set(xlabel="Hidden layer (model depth)", ylabel="Cosine similarity")
    axes.set(title="Laminar profile of inter-token cosine similarities")
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        figure = draw(read_dataset(snakemake.input.similarity_profile), **snakemake.params.options)
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
