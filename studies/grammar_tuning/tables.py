"""Tables of the study on grammar tuning; see README.md."""

import pandas as pd
import xarray as xr

from microtome.figures.labels import site_definition
from microtome.store.tables import Table

#: How many of the neurons most tuned to each category the text names.
MOST_TUNED = 5


def t_tests(t_tests: xr.Dataset) -> Table:
    """One row per neuron: means, and for each test t, p and significance after each correction.

    In the text the counts of significant neurons, and the neurons most tuned to each category.
    """
    columns = {
        f"mean_{name}": t_tests["mean"].sel(category=name) for name in t_tests["category"].values
    }
    for test in t_tests["test"].values:
        chosen = t_tests.sel(test=test)
        columns |= {f"t_{test}": chosen["t"], f"p_{test}": chosen["p"]}
        for correction in t_tests["correction"].values:
            significant = chosen["significant"].sel(correction=correction)
            columns[f"significant_{test}_{correction}"] = significant
    frame = pd.DataFrame({name: column.values for name, column in columns.items()})
    frame = frame.rename_axis("neuron").reset_index()
    return Table(frame, _summary(t_tests, frame))


def _summary(t_tests: xr.Dataset, frame: pd.DataFrame) -> str:
    first, second = t_tests["category"].values
    alpha = t_tests.attrs["alpha"]
    uncorrected = (t_tests["p"] < alpha).sum("neuron")
    counts = t_tests["significant"].sum("neuron").to_pandas().assign(uncorrected=uncorrected)
    both = (t_tests["significant"].sel(correction="bonferroni").sum("test") == 2).sum().item()
    tuned = frame[["neuron", f"mean_{first}", f"mean_{second}", "t_paired", "t_welch"]]
    tuned = tuned.sort_values("t_paired", ascending=False)
    words, split = int(t_tests["n_words"].values[0]), t_tests["n_split"].values
    return "\n".join(
        [
            f"{first} minus {second}, {words} words each: {len(frame)} neurons "
            f"of layer {t_tests.attrs['layer']}, {site_definition(t_tests)}",
            f"Words of more than one token: {split[0]} {first}, {split[1]} {second}",
            "",
            f"Significant neurons at {alpha:g}",
            counts.to_string(),
            f"by both tests (bonferroni): {both}",
            "",
            f"Most {first}-tuned",
            tuned.head(MOST_TUNED).to_string(index=False, float_format="%.3f"),
            "",
            f"Most {second}-tuned",
            tuned.tail(MOST_TUNED)[::-1].to_string(index=False, float_format="%.3f"),
        ]
    )
