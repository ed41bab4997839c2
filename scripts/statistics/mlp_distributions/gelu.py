"""What GELU does to evenly spaced values; of no model."""

from microtome.products import job
from microtome.statistics.nonlinearity import gelu_demonstration
from microtome.store import write_dataset

if __name__ == "__main__":
    with job(snakemake):
        write_dataset(gelu_demonstration(**snakemake.params.options), snakemake.output[0])
