"""Histograms of the stages of an MLP by token position, at one layer."""

from microtome.model.stored import StoredMLP
from microtome.model.taps import from_plain
from microtome.statistics.distributions import token_histograms
from microtome.store.datasets import open_layer, write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake), open_layer(snakemake.input.layers[0]) as section:
        mlp = StoredMLP(
            snakemake.input.checkpoint,
            snakemake.input.manifest,
            from_plain(snakemake.params.taps),
        )
        stages = mlp.stages(snakemake.params.sites)
        histograms = token_histograms(section, stages, **snakemake.params.options)
        write_dataset(histograms.assign_attrs(layer=section.attrs["layer"]), snakemake.output[0])
