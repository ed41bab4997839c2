"""What GELU does to evenly spaced values; of no model."""

from microtome.errors import job_log
from microtome.statistics.nonlinearity import gelu_demonstration
from microtome.store import write_dataset

if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        write_dataset(gelu_demonstration(**snakemake.params.options), snakemake.output[0])
