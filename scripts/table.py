"""Make a table: call its function with the statistics it reads, and write it as CSV and as text."""

from microtome.store.datasets import read_dataset
from microtome.store.tables import write_table
from microtome.workflow.inputs import arguments
from microtome.workflow.jobs import job
from microtome.workflow.load import load

if __name__ == "__main__":
    with job(snakemake):
        tabulate = load(snakemake.params.function)
        statistics = [read_dataset(path) for path in snakemake.input]
        write_table(tabulate(*statistics, **arguments(snakemake.params.options)), *snakemake.output)
