"""Mantel test of RSA, for every pair of sites and layer."""

from microtome.statistics.permutation import mantel_test
from microtome.store.datasets import read_dataset, write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        cosines = read_dataset(snakemake.input.cosine_similarities)
        write_dataset(mantel_test(cosines, **snakemake.params.options), snakemake.output[0])
