"""RSA scores with the p-values of the Mantel test."""

import pandas as pd
import xarray as xr

from microtome.store.datasets import read_dataset
from microtome.store.tables import write_table
from microtome.workflow.jobs import job


def tabulate(rsa: xr.Dataset, test: xr.Dataset) -> pd.DataFrame:
    """One row per layer and pair of sites."""
    return rsa.assign(p_mantel=test["p"]).to_dataframe().reset_index()


if __name__ == "__main__":
    with job(snakemake):
        frame = tabulate(read_dataset(snakemake.input.rsa), read_dataset(snakemake.input.rsa_test))
        write_table(frame, frame.to_string(index=False), *snakemake.output)
