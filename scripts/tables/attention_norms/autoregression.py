"""The regressions of all layers; in the text file the counts of significant betas come first."""

import pandas as pd
import xarray as xr

from microtome.store.datasets import read_dataset
from microtome.store.tables import write_table
from microtome.workflow.jobs import job


def tabulate(betas: xr.Dataset) -> pd.DataFrame:
    """One row per layer and term; what concerns the whole regression stands in both its rows."""
    return betas.to_dataframe(dim_order=["layer", "term"]).reset_index()


def summarise(betas: xr.Dataset, frame: pd.DataFrame) -> str:
    """How many betas differ from 0, by either kind of standard error, and all of them."""
    attributes = betas.attrs
    alpha, n_layers = attributes["alpha"], betas.sizes["layer"]
    counts = frame.groupby("term")[["significant", "significant_hac"]].sum()
    autocorrelated = int((betas["p_ljung_box"] < alpha).sum())
    columns = ["layer", "term", "beta", "p", "p_hac", "r_squared", "ljung_box", "p_ljung_box"]
    return "\n".join(
        [
            f"Layers of {n_layers} with p < {alpha:g}, {attributes['n']} tokens each, by ordinary "
            f"and by Newey-West standard errors ({attributes['maxlags']} lags)",
            counts.to_string(),
            f"Layers whose residuals are autocorrelated (Ljung-Box, "
            f"{attributes['ljung_box_lags']} lags, p < {alpha:g}): {autocorrelated}",
            "",
            frame[columns].to_string(index=False, float_format="%.4f"),
        ]
    )


if __name__ == "__main__":
    with job(snakemake):
        betas = read_dataset(snakemake.input.autoregression)
        frame = tabulate(betas)
        write_table(frame, summarise(betas, frame), *snakemake.output)
