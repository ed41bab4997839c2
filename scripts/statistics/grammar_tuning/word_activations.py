"""Activations of words on their own, at one layer: the mean over a word's tokens."""

from microtome.products import job
from microtome.statistics.tuning import word_activations
from microtome.store import open_layer, write_dataset

if __name__ == "__main__":
    with job(snakemake), open_layer(snakemake.input.layers[0]) as section:
        words = word_activations(section, snakemake.params.sites[0])
        write_dataset(words, snakemake.output[0])
