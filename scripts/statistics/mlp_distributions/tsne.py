"""Tokens before and after an MLP, in two dimensions and value by value, at one layer."""

from microtome.statistics.correlation import correlations, paired_values
from microtome.statistics.dimensionality import tsne
from microtome.statistics.positions import from_position
from microtome.store.datasets import open_layer, write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake), open_layer(snakemake.input.layers[0]) as section:
        options, sites = dict(snakemake.params.options), snakemake.params.sites
        rest = from_position(section, options.pop("first_token"))
        embedding = tsne(section, sites, **options)
        points = embedding.merge(paired_values(rest, sites)).merge(correlations(rest, sites))
        write_dataset(points.assign_attrs(layer=section.attrs["layer"]), snakemake.output[0])
