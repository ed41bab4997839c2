"""What GELU does to evenly spaced values; of no model."""

from microtome.statistics.distributions import gelu_demonstration
from microtome.store.datasets import write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        write_dataset(gelu_demonstration(**snakemake.params.options), snakemake.output[0])
