"""Which neurons tell one category of words from another."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.labels import site_definition
from microtome.figures.style import save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job


def draw(tests: xr.Dataset) -> Figure:
    """Draw the t of every neuron's paired test; source: exercise 4."""
    figure = Figure(figsize=(10, 4), layout="tight")
    axes = figure.subplots()
    paired = tests.sel(test="paired")
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
    first, second = (name.upper() for name in tests["category"].values)
    axes.margins(x=0.01)
    axes.set(xlabel="Neuron", ylabel="T-value")
    title = f"{first} minus {second} in the neurons of layer {tests.attrs['layer']}"
    axes.set(title=f"{title} (paired t, Bonferroni)\n{site_definition(tests)}")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        figure = draw(read_dataset(snakemake.input.t_tests), **snakemake.params.options)
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
