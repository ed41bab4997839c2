"""Correlation of each two sites at one token, for every layer."""

from microtome.statistics.correlation import correlations
from microtome.statistics.layers import by_layer
from microtome.statistics.positions import distinct
from microtome.store.datasets import write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        token, sites = snakemake.params.options["token"], snakemake.params.sites
        profile = by_layer(
            snakemake.input.layers,
            lambda section: correlations(distinct(section, token), sites),
        )
        write_dataset(profile, snakemake.output[0])
