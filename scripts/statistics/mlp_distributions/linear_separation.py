"""Two rings that a third dimension makes linearly separable; of no model."""

from microtome.errors import job_log
from microtome.statistics.nonlinearity import linear_separation_demonstration
from microtome.store import write_dataset

if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        rings = linear_separation_demonstration(**snakemake.params.options)
        write_dataset(rings, snakemake.output[0])
