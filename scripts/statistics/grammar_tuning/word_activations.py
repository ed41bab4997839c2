"""Activations of words on their own, at one layer: the mean over a word's tokens."""

from microtome.model.stored import StoredMLP
from microtome.model.taps import from_plain
from microtome.statistics.tuning import word_activations
from microtome.store.datasets import open_layer, write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake), open_layer(snakemake.input.layers[0]) as section:
        site = snakemake.params.sites[0]
        mlp = StoredMLP(
            snakemake.input.checkpoint,
            snakemake.input.manifest,
            from_plain(snakemake.params.taps),
        )
        words = word_activations(section, site, mlp.definition(site))
        write_dataset(words, snakemake.output[0])
