"""A text, coloured by the activation of the most tuned neuron of each category."""

import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.labels import site_definition
from microtome.figures.style import save, style
from microtome.figures.text import text_heatmap, text_height
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job

#: Inches: the figure's width, its margin, and what a panel's title takes.
WIDTH, MARGIN, TITLE = 10, 0.25, 0.7


def draw(tuning: xr.Dataset) -> Figure:
    """Draw the text once per neuron of `text_tuning`; source: exercise 5."""
    texts = tuning["text"].values.tolist()
    width = WIDTH - 2 * MARGIN
    height = text_height(texts, 72 * width) / 72
    total = 2 * (TITLE + height) + MARGIN
    figure = Figure(figsize=(WIDTH, total))
    for number, (category, cmap) in enumerate(
        zip(tuning["category"].values, ("Reds", "Blues"), strict=True)
    ):
        bottom = total - (number + 1) * (TITLE + height)
        axes = figure.add_axes(
            (MARGIN / WIDTH, bottom / total, width / WIDTH, height / total),
        )
        chosen = tuning.sel(category=category)
        text_heatmap(axes, texts, chosen["scaled"].values, cmap)
        neuron, t = chosen["neuron"].item(), chosen["t"].item()
        lowest, highest = chosen["activation"].min().item(), chosen["activation"].max().item()
        axes.set_title(
            f"{'AB'[number]}) {category.capitalize()}-tuned neuron {neuron} of layer "
            f"{tuning.attrs['layer']} (t = {t:.1f}), "
            f"activation {lowest:.2f} (pale) to {highest:.2f}\n{site_definition(tuning)}",
            loc="left",
        )
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        figure = draw(read_dataset(snakemake.input.text_tuning), **snakemake.params.options)
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
