"""The most tuned neuron of each category on another text."""

from microtome.statistics.selectivity import text_tuning
from microtome.store.datasets import open_layer, read_dataset, write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake), open_layer(snakemake.input.layers[0]) as section:
        tests = read_dataset(snakemake.input.t_tests)
        tuning = text_tuning(section, tests, snakemake.params.sites[0])
        write_dataset(tuning, snakemake.output[0])
