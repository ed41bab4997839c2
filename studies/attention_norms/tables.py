"""Tables of the study on norms of attention's updates; see README.md."""

import xarray as xr

from microtome.store.tables import Table


def regression(regression: xr.Dataset) -> Table:
    """One row per term; in the text statsmodels' summary, and errors for dependent residuals."""
    terms = [name for name in regression.data_vars if regression[name].dims == ("term",)]
    frame = regression[terms].to_dataframe().reset_index()
    rounded = {"index": False, "float_format": "%.4f"}
    robust = ["term", "beta", "std_error", "p", "std_error_hac", "p_hac"]
    lines = [
        f"Block {regression.attrs['layer']}",
        regression.attrs["summary"],
        "",
        "The same betas from numpy.linalg.lstsq:",
        frame[["term", "beta", "beta_numpy"]].to_string(**rounded),
        "",
        "Standard errors robust to autocorrelation and unequal variance "
        f"(Newey-West, {regression.attrs['maxlags']} lags):",
        frame[robust].to_string(**rounded),
        "",
        f"Ljung-Box test of the residuals ({regression.attrs['ljung_box_lags']} lags): "
        f"{regression['ljung_box'].item():.3f}, p = {regression['p_ljung_box'].item():.3f}",
    ]
    return Table(frame, "\n".join(lines))


def autoregression(autoregression: xr.Dataset) -> Table:
    """One row per layer and term; in the text the counts of betas that differ from 0 come first.

    What concerns the whole regression stands in both rows of its layer.
    """
    frame = autoregression.to_dataframe(dim_order=["layer", "term"]).reset_index()
    attributes = autoregression.attrs
    alpha, n_layers = attributes["alpha"], autoregression.sizes["layer"]
    counts = frame.groupby("term")[["significant", "significant_hac"]].sum()
    autocorrelated = int((autoregression["p_ljung_box"] < alpha).sum())
    columns = ["layer", "term", "beta", "p", "p_hac", "r_squared", "ljung_box", "p_ljung_box"]
    lines = [
        f"Layers of {n_layers} with p < {alpha:g}, {attributes['n']} tokens each, by ordinary "
        f"and by Newey-West standard errors ({attributes['maxlags']} lags)",
        counts.to_string(),
        f"Layers whose residuals are autocorrelated (Ljung-Box, "
        f"{attributes['ljung_box_lags']} lags, p < {alpha:g}): {autocorrelated}",
        "",
        frame[columns].to_string(index=False, float_format="%.4f"),
    ]
    return Table(frame, "\n".join(lines))
