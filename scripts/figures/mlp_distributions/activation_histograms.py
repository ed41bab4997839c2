"""Distributions of the stages of an MLP over all tokens, at one layer."""

import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.labels import stage_labels
from microtome.figures.style import ink, save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job


def draw(histograms: xr.Dataset) -> Figure:
    """Draw one line per stage of `activation_histograms`; source: project 42, part 2."""
    figure = Figure(figsize=(7, 4), layout="tight")
    axes = figure.subplots()
    limit = histograms.attrs["limit"]
    for site, name in zip(histograms["site"].values, stage_labels(histograms), strict=True):
        stage = histograms.sel(site=site)
        beyond = stage["beyond"].item()
        left_out = f", {beyond:.0%} beyond" if beyond >= 0.01 else ""
        label = f"{name} (N = {stage['n'].item():,}{left_out})"
        axes.plot(stage["value"].values, stage["density"].values, label=label)
    axes.axvline(0, linestyle="--", color=ink(), linewidth=0.5)
    axes.set(xlabel="Activation value", ylabel="Density", xlim=(-limit, limit), ylim=(0, None))
    axes.legend()
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        histograms = read_dataset(snakemake.input.activation_histograms)
        figure = draw(histograms, **snakemake.params.options)
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
