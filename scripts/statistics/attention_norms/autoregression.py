"""Each token's log norm predicted from the two tokens before it, for every layer."""

from microtome.statistics.regression import autoregression
from microtome.store.datasets import read_dataset, write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        norms = read_dataset(snakemake.input.norms)
        write_dataset(autoregression(norms, **snakemake.params.options), snakemake.output[0])
