"""Make a statistic: call its function with what it reads, and write what it returns."""

from microtome.store.datasets import write_dataset
from microtome.workflow.inputs import compute
from microtome.workflow.jobs import job
from microtome.workflow.load import load

if __name__ == "__main__":
    with job(snakemake):
        found = compute(load(snakemake.params.function), snakemake)
        write_dataset(found, snakemake.output[0])
