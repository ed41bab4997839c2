"""Correlation of the sites' similarity matrices, for every layer."""

from microtome.statistics.similarity import representational_similarity
from microtome.store.datasets import read_dataset, write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        cosines = read_dataset(snakemake.input.cosine_similarities)
        write_dataset(representational_similarity(cosines), snakemake.output[0])
