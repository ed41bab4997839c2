"""Histograms of the MLP's weight matrices, for every layer."""

from microtome.products import job
from microtome.statistics.mlp_weights import weight_histograms
from microtome.store import write_dataset
from microtome.weights import StoredMLP

if __name__ == "__main__":
    with job(snakemake):
        mlp = StoredMLP(snakemake.input.checkpoint, snakemake.input.manifest)
        write_dataset(weight_histograms(mlp, **snakemake.params.options), snakemake.output[0])
