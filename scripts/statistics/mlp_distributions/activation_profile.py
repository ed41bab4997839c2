"""Histograms of the stages of an MLP, for every layer, without the first tokens of a text."""

from microtome.model.stored import StoredMLP
from microtome.model.taps import from_plain
from microtome.statistics.distributions import site_histograms
from microtome.statistics.layers import by_layer, from_position
from microtome.store.datasets import write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        options = dict(snakemake.params.options)
        first = options.pop("first_token")
        mlp = StoredMLP(
            snakemake.input.checkpoint,
            snakemake.input.manifest,
            from_plain(snakemake.params.taps),
        )
        stages = mlp.stages(snakemake.params.sites)
        profile = by_layer(
            snakemake.input.layers,
            lambda section: site_histograms(from_position(section, first), stages, **options),
        )
        write_dataset(profile, snakemake.output[0])
