"""Tables of the study on category selectivity; see README.md."""

import pandas as pd
import xarray as xr


def selectivity(selectivity: xr.Dataset, selectivity_test: xr.Dataset) -> pd.DataFrame:
    """One row per scale, layer and site, with the p-values of both tests.

    `p_t_test` takes pairs that share a word as independent, as the notebook does;
    `p_permutation` does not.
    """
    columns = selectivity.rename(p="p_t_test").assign(p_permutation=selectivity_test["p"])
    return columns.to_dataframe().reset_index()


def rsa(rsa: xr.Dataset, rsa_test: xr.Dataset) -> pd.DataFrame:
    """One row per layer and pair of sites, with the p-value of the Mantel test."""
    return rsa.assign(p_mantel=rsa_test["p"]).to_dataframe().reset_index()
