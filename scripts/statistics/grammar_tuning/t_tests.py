"""Two categories of words compared at every neuron."""

from microtome.products import job
from microtome.statistics.tuning import t_tests
from microtome.store import read_dataset, write_dataset

if __name__ == "__main__":
    with job(snakemake):
        words = read_dataset(snakemake.input.word_activations)
        write_dataset(t_tests(words, **snakemake.params.options), snakemake.output[0])
