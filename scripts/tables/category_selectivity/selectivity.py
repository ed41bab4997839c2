"""Category selectivity with the p-values of the t-test and of the permutation test."""

import pandas as pd
import xarray as xr

from microtome.store.datasets import read_dataset
from microtome.store.tables import write_table
from microtome.workflow.jobs import job


def tabulate(selectivity: xr.Dataset, test: xr.Dataset) -> pd.DataFrame:
    """One row per scale, layer and site.

    `p_t_test` takes pairs that share a word as independent, as the notebook does;
    `p_permutation` does not.
    """
    columns = selectivity.rename(p="p_t_test").assign(p_permutation=test["p"])
    return columns.to_dataframe().reset_index()


if __name__ == "__main__":
    with job(snakemake):
        frame = tabulate(
            read_dataset(snakemake.input.selectivity),
            read_dataset(snakemake.input.selectivity_test),
        )
        write_table(frame, frame.to_string(index=False), *snakemake.output)
