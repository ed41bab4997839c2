"""Two rings that a third dimension makes linearly separable; of no model."""

from microtome.statistics.dimensionality import linear_separation_demonstration
from microtome.store.datasets import write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        rings = linear_separation_demonstration(**snakemake.params.options)
        write_dataset(rings, snakemake.output[0])
