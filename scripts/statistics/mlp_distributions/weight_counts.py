"""How many weights and biases an MLP has."""

from microtome.errors import job_log
from microtome.statistics.mlp_weights import weight_counts
from microtome.store import write_dataset
from microtome.weights import StoredMLP

if __name__ == "__main__":
    with job_log(snakemake.log[0]):
        mlp = StoredMLP(snakemake.input.checkpoint, snakemake.input.manifest)
        write_dataset(weight_counts(mlp, **snakemake.params.options), snakemake.output[0])
