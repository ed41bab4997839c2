"""Similarity within categories against similarity across them, for every site and layer."""

from microtome.statistics.selectivity import selectivity
from microtome.store.datasets import read_dataset, write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        cosines = read_dataset(snakemake.input.cosine_similarities)
        write_dataset(selectivity(cosines), snakemake.output[0])
