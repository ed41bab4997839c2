"""Merge what a streamed statistic has kept of each shard, and write what comes of it."""

from microtome.store.datasets import write_dataset
from microtome.workflow.inputs import merged
from microtome.workflow.jobs import job
from microtome.workflow.load import load

if __name__ == "__main__":
    with job(snakemake):
        write_dataset(
            merged(load(snakemake.params.product["function"]), snakemake), snakemake.output[0]
        )
