"""Activations of each two sites side by side, at one layer and token, and their correlation."""

from microtome.statistics.correlation import correlations, paired_values
from microtome.statistics.positions import distinct
from microtome.store.datasets import open_layer, write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake), open_layer(snakemake.input.layers[0]) as section:
        chosen = distinct(section, snakemake.params.options["token"])
        sites = snakemake.params.sites
        points = paired_values(chosen, sites).merge(correlations(chosen, sites))
        write_dataset(points.assign_attrs(layer=section.attrs["layer"]), snakemake.output[0])
