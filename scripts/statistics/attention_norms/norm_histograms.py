"""Histograms of the log norms of each layer."""

from microtome.statistics.norms import norm_histograms
from microtome.store.datasets import read_dataset, write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        norms = read_dataset(snakemake.input.norms)
        write_dataset(norm_histograms(norms, **snakemake.params.options), snakemake.output[0])
