"""Histograms of the similarities within and across categories, at one layer."""

from microtome.products import job
from microtome.statistics.selectivity import similarity_distributions
from microtome.store import read_dataset, write_dataset

if __name__ == "__main__":
    with job(snakemake):
        layer = snakemake.params.options["layer"]
        cosines = read_dataset(snakemake.input.cosine_similarities).sel(layer=layer)
        write_dataset(similarity_distributions(cosines), snakemake.output[0])
