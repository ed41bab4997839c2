"""Each token's log norm predicted from the two tokens before it, at one layer."""

from microtome.statistics.regression import regression
from microtome.store.datasets import read_dataset, write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        options = snakemake.params.options
        layer, first_token = options["layer"], options["first_token"]
        norms = read_dataset(snakemake.input.norms).sel(layer=layer)
        write_dataset(regression(norms, first_token).assign_attrs(layer=layer), snakemake.output[0])
