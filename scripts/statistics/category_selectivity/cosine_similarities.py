"""Cosine similarity of each two words at one of their tokens, for every site and layer."""

from microtome.statistics.layers import by_layer
from microtome.statistics.positions import at_word
from microtome.statistics.similarity import cosine_similarities
from microtome.store.datasets import write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        token, sites = snakemake.params.options["token"], snakemake.params.sites
        matrices = by_layer(
            snakemake.input.layers,
            lambda section: cosine_similarities(at_word(section, token), sites),
        )
        write_dataset(matrices, snakemake.output[0])
