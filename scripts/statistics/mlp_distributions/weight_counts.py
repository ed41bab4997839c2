"""How many weights and biases an MLP has."""

from microtome.products import job
from microtome.statistics.mlp_weights import weight_counts
from microtome.store import write_dataset
from microtome.weights import StoredMLP

if __name__ == "__main__":
    with job(snakemake):
        mlp = StoredMLP(snakemake.input.checkpoint, snakemake.input.manifest)
        write_dataset(weight_counts(mlp, **snakemake.params.options), snakemake.output[0])
