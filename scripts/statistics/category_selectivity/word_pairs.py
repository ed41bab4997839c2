"""Which pairs of words share a category."""

from microtome.statistics.positions import at_word
from microtome.statistics.similarity import word_pairs
from microtome.store.datasets import read_dataset, write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        tokens = read_dataset(snakemake.input.tokens)
        write_dataset(word_pairs(at_word(tokens)), snakemake.output[0])
