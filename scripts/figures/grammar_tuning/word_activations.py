"""How the neurons of one layer respond to words."""

import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.labels import site_definition
from microtome.figures.panels import colour_bar_ends
from microtome.figures.style import ink, save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job


def draw(words: xr.Dataset, *, limits: tuple[float, float]) -> Figure:
    """Draw every word of the first category, and the mean of the second; source: exercise 3.

    Args:
        words: the statistic `word_activations`.
        limits: the activations at the ends of the colour scale.
    """
    figure = Figure(figsize=(12, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    first, second = list(dict.fromkeys(words["category"].values))[:2]
    activation = words["activation"]
    each = activation.values[words["category"].values == first]
    image = left.imshow(
        each, aspect="auto", vmin=limits[0], vmax=limits[1], interpolation="nearest"
    )
    left.set(xlabel="Neuron", ylabel=f"{first.capitalize()}s (index)")
    left.set(title=f"A) Activations of {first}s")
    figure.colorbar(image, ax=left, pad=0.01, extend=colour_bar_ends(each, limits))
    mean = activation.values[words["category"].values == second].mean(axis=0)
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
    figure.suptitle(f"Layer {words.attrs['layer']}, {site_definition(words)}")
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        figure = draw(read_dataset(snakemake.input.word_activations), **snakemake.params.options)
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
