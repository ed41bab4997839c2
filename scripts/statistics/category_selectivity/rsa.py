"""Correlation of the sites' similarity matrices, for every layer."""

from microtome.errors import job_log
from microtome.statistics.similarity import representational_similarity
from microtome.store import read_dataset, write_dataset

if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        cosines = read_dataset(snakemake.input.cosine_similarities)
        write_dataset(representational_similarity(cosines), snakemake.output[0])
