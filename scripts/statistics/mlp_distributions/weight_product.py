"""The squared product of an MLP's first and last weight matrix."""

from microtome.model.stored import StoredMLP
from microtome.model.taps import from_plain
from microtome.statistics.mlp_weights import weight_product
from microtome.store.datasets import write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        mlp = StoredMLP(
            snakemake.input.checkpoint,
            snakemake.input.manifest,
            from_plain(snakemake.params.taps),
        )
        write_dataset(weight_product(mlp, **snakemake.params.options), snakemake.output[0])
