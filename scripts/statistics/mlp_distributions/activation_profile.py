"""Histograms of the stages of an MLP, for every layer, without the first tokens of a text."""

from microtome.model.stored import StoredMLP
from microtome.statistics.distributions import site_histograms
from microtome.statistics.layers import by_layer
from microtome.statistics.positions import from_position
from microtome.store.datasets import write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        options = dict(snakemake.params.options)
        first = options.pop("first_token")
        mlp = StoredMLP(snakemake.input.checkpoint, snakemake.input.manifest)
        sites = snakemake.params.sites
        profile = by_layer(
            snakemake.input.layers,
            lambda section: site_histograms(from_position(section, first), sites, **options),
        )
        write_dataset(profile.assign_attrs(mlp.attributes()), snakemake.output[0])
