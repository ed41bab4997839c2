"""One token's activations in every hidden state, and their variance."""

import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.panels import depth_colours, sparse_ticks, strips, token_label
from microtome.figures.style import ink, save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job


def draw(profile: xr.Dataset) -> Figure:
    """Draw `token_profile` over the hidden states; source: LLM breakdown 4/6, demo 1."""
    figure = Figure(figsize=(12, 4), layout="tight")
    left, right = figure.subplots(1, 2)
    hidden = profile["hidden"].values
    strips(left, profile["activation"].values)
    colours = depth_colours(len(hidden))
    for x, (variance, colour) in enumerate(zip(profile["variance"].values, colours, strict=True)):
        right.plot(
            x,
            variance,
            "s",
            markersize=min(12, 300 / len(hidden)),
            markerfacecolor=colour,
            markeredgecolor=ink(),
        )
    token = token_label(profile["text"].item())
    left.set(ylabel="Activation value", title=f'Hidden state activations for token "{token}"')
    right.set(ylabel="Activation variance", title=f'Activation variances for token "{token}"')
    for axes in (left, right):
        axes.set(xlabel="Hidden layer (model depth)")
        sparse_ticks(axes.xaxis, hidden, most=13)
    return figure


if __name__ == "__main__":
    with job(snakemake):
        profile = read_dataset(snakemake.input.token_profile)
        with style(snakemake.params.style["theme"], profile["text"].item()):
            figure = draw(profile, **snakemake.params.options)
            save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
