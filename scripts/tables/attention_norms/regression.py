"""The regression of one layer; in the text file statsmodels' summary and what to add to it."""

import pandas as pd
import xarray as xr

from microtome.store.datasets import read_dataset
from microtome.store.tables import write_table
from microtome.workflow.jobs import job


def tabulate(regression: xr.Dataset) -> pd.DataFrame:
    """One row per term: betas, standard errors and p-values."""
    terms = [name for name in regression.data_vars if regression[name].dims == ("term",)]
    return regression[terms].to_dataframe().reset_index()


def summarise(regression: xr.Dataset, frame: pd.DataFrame) -> str:
    """Statsmodels' summary, then numpy's betas, and errors that hold for dependent residuals."""
    rounded = {"index": False, "float_format": "%.4f"}
    return "\n".join(
        [
            f"Block {regression.attrs['layer']}",
            regression.attrs["summary"],
            "",
            "The same betas from numpy.linalg.lstsq:",
            frame[["term", "beta", "beta_numpy"]].to_string(**rounded),
            "",
            "Standard errors robust to autocorrelation and unequal variance "
            f"(Newey-West, {regression.attrs['maxlags']} lags):",
            frame[["term", "beta", "std_error", "p", "std_error_hac", "p_hac"]].to_string(
                **rounded
            ),
            "",
            f"Ljung-Box test of the residuals ({regression.attrs['ljung_box_lags']} lags): "
            f"{regression['ljung_box'].item():.3f}, p = {regression['p_ljung_box'].item():.3f}",
        ]
    )


if __name__ == "__main__":
    with job(snakemake):
        regression = read_dataset(snakemake.input.regression)
        frame = tabulate(regression)
        write_table(frame, summarise(regression, frame), *snakemake.output)
