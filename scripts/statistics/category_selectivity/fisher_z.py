"""What Fisher's z does to uniformly distributed values; of no model."""

from microtome.statistics.similarity import fisher_z_demonstration
from microtome.store.datasets import write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        write_dataset(fisher_z_demonstration(**snakemake.params.options), snakemake.output[0])
