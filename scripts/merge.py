"""Merge what a streamed statistic has kept of each shard, and write what comes of it."""

from pathlib import Path

from microtome.store.checksums import remove_other_shards
from microtome.store.datasets import write_dataset
from microtome.workflow.inputs import merged
from microtome.workflow.jobs import job
from microtome.workflow.load import load

if __name__ == "__main__":
    with job(snakemake):
        path = Path(snakemake.output[0])
        write_dataset(merged(load(snakemake.params.product["function"]), snakemake), path)
        remove_other_shards(path.with_suffix(""), set(map(Path, snakemake.input.states)))
