"""What the figures of the study on grammar tuning say of a model, in numbers."""

import xarray as xr

from microtome.page.numbers import listed, number, spread


def word_activations(word_activations: xr.Dataset) -> str:
    """The range of the activations, and of their means."""
    activation = word_activations["activation"]
    second = list(dict.fromkeys(word_activations["category"].values))[1]
    mean = activation[word_activations["category"].values == second].mean("word")
    return f"Activations are {spread(activation)}; means over all {second}s {spread(mean)}."


def t_tests(t_tests: xr.Dataset) -> str:
    """How many neurons are tuned, and how strongly."""
    paired = t_tests.sel(test="paired")
    counts = paired["significant"].sum("neuron")
    bonferroni, hochberg = (
        int(counts.sel(correction=name)) for name in ("bonferroni", "benjamini_hochberg")
    )
    return (
        f"{bonferroni} of {t_tests.sizes['neuron']:,} neurons are significant by Bonferroni, "
        f"{hochberg} by Benjamini and Hochberg; t is {spread(paired['t'], 1)}."
    )


def text_heatmap(text_tuning: xr.Dataset) -> str:
    """The two neurons, and what they are tuned to."""
    tuned = [
        f"neuron {int(neuron)} to {category}s (t = {number(t, 1)})"
        for neuron, t, category in zip(
            *(text_tuning[name].values for name in ("neuron", "t", "category")), strict=True
        )
    ]
    return f"Layer {text_tuning.attrs['layer']}: most tuned are {listed(tuned)}."
