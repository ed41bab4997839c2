"""Tables of the study on effective dimensionality; see README.md."""

import xarray as xr

from microtome.store.tables import Table


def spectrum(spectrum: xr.Dataset) -> Table:
    """One row per component; the text begins with how many are needed, as the notebook prints it.

    Source: project 28, part 2.
    """
    wide = spectrum[["explained", "cumulative"]].to_dataframe().unstack("tokens")
    wide.columns = [f"{name}_{tokens}" for name, tokens in wide.columns]
    frame = wide.reset_index()
    lines = []
    for tokens, which in (("all", "All tokens"), ("rest", "Without the first")):
        n = int(spectrum["n_components"].sel(tokens=tokens))
        held = spectrum["cumulative"].sel(tokens=tokens)
        lines.append(
            f"{which}: {n} (out of {int(held.notnull().sum())}) components explain "
            f"{held.sel(component=n).item() / 100:.2%} of the variance"
        )
    shown = frame.head(10).to_string(index=False, float_format="%.3f")
    return Table(frame, "\n".join([*lines, "", "The first components:", shown]))


def dimensionality(
    dimensionality: xr.Dataset, shuffled_dimensionality: xr.Dataset, comparison: xr.Dataset
) -> Table:
    """A row per hidden state of all tokens, then of the rest; the text counts unique tokens.

    Ranks are of the text and of its first shuffle, the rest is of the text, the mean of its
    shuffles, and where a further one would lie.

    Source: project 28, part 3.
    """
    real, shuffled = (d.isel(sequence=0) for d in (dimensionality, shuffled_dimensionality))
    columns = {"rank": real["rank"], "rank_shuffled": shuffled["rank"]}
    for measure in comparison["measure"].values:
        chosen = comparison.sel(measure=measure, drop=True)
        columns[measure] = chosen["observed"]
        columns |= {
            f"{measure}_{name}": chosen[name] for name in ("shuffled", "low", "high", "outside")
        }
    columns["percent"] = 100 * real["n_components"] / real["rank"]
    frame = xr.Dataset(columns).to_dataframe(["tokens", "hidden"]).reset_index()
    counts = real.sel(tokens="all")
    unique = (
        f"There are {counts['n_unique'].item()} out of {counts['n_tokens'].item()} unique tokens."
    )
    return Table(frame, f"{unique}\n\n{frame.to_string(index=False, float_format='%.2f')}")
