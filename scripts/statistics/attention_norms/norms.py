"""Log norms of what attention adds to each token, for every layer."""

from microtome.statistics.layers import by_layer
from microtome.statistics.norms import log_norms
from microtome.store.datasets import write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        site = snakemake.params.sites[0]
        norms = by_layer(snakemake.input.layers, lambda section: log_norms(section, site))
        write_dataset(norms, snakemake.output[0])
