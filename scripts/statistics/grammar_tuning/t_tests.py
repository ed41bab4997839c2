"""Two categories of words compared at every neuron."""

from microtome.statistics.selectivity import t_tests
from microtome.store.datasets import read_dataset, write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        words = read_dataset(snakemake.input.word_activations)
        write_dataset(t_tests(words, **snakemake.params.options), snakemake.output[0])
