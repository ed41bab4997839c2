"""Histograms of the similarities within and across categories, at one layer."""

from microtome.statistics.selectivity import similarity_distributions
from microtome.store.datasets import read_dataset, write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        layer = snakemake.params.options["layer"]
        cosines = read_dataset(snakemake.input.cosine_similarities).sel(layer=layer)
        write_dataset(similarity_distributions(cosines), snakemake.output[0])
