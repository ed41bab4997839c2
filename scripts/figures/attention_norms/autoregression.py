"""How far a token's log norm follows from those of the two tokens before it, for every layer."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.panels import sparse_ticks
from microtome.figures.style import FILLS, ink, save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job


def draw(betas: xr.Dataset) -> Figure:
    """Draw the betas of `autoregression` over the layers; source: part 4."""
    figure = Figure(figsize=(10, 4), layout="tight")
    axes = figure.subplots()
    places = np.arange(betas.sizes["layer"])
    axes.axhline(0, color="gray")
    for term, marker, fill in zip(betas["term"].values, "so", (FILLS[0], FILLS[2]), strict=True):
        beta = betas["beta"].sel(term=term).values
        significant = betas["significant"].sel(term=term).values == 1
        axes.plot(
            places,
            beta,
            color=fill,
            linewidth=1.5,
            marker=marker,
            markevery=places[significant].tolist(),
            markersize=12 if len(places) <= 12 else 9,
            markeredgewidth=0.5,
            markeredgecolor=ink(),
            label=term,
        )
        axes.plot(places[~significant], beta[~significant], "x", color=ink(), markersize=6)
    axes.plot([], [], "x", color=ink(), label=f"p ≥ {betas.attrs['alpha']:g}")
    sparse_ticks(axes.xaxis, [f"L{layer}" for layer in betas["layer"].values], most=16)
    axes.margins(x=0.02)
    axes.set(xlabel="Transformer block", ylabel="Beta")
    axes.set(title="Predicting token update from previous token updates")
    axes.grid(linewidth=0.3, linestyle="--")
    axes.legend(fontsize=14, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        figure = draw(read_dataset(snakemake.input.autoregression), **snakemake.params.options)
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
