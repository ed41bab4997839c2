"""Two rings that a third dimension makes linearly separable; of no model."""

from microtome.products import job
from microtome.statistics.nonlinearity import linear_separation_demonstration
from microtome.store import write_dataset

if __name__ == "__main__":
    with job(snakemake):
        rings = linear_separation_demonstration(**snakemake.params.options)
        write_dataset(rings, snakemake.output[0])
