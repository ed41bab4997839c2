"""The t-tests of every neuron; in the text file their counts and the most tuned neurons."""

import pandas as pd
import xarray as xr

from microtome.figures.labels import site_definition
from microtome.store.datasets import read_dataset
from microtome.store.tables import write_table
from microtome.workflow.jobs import job


def tabulate(tests: xr.Dataset) -> pd.DataFrame:
    """One row per neuron: means, and for each test t, p and significance after each correction."""
    columns = {
        f"mean_{name}": tests["mean"].sel(category=name) for name in tests["category"].values
    }
    for test in tests["test"].values:
        chosen = tests.sel(test=test)
        columns |= {f"t_{test}": chosen["t"], f"p_{test}": chosen["p"]}
        for correction in tests["correction"].values:
            significant = chosen["significant"].sel(correction=correction)
            columns[f"significant_{test}_{correction}"] = significant
    frame = pd.DataFrame({name: column.values for name, column in columns.items()})
    return frame.rename_axis("neuron").reset_index()


def summarise(tests: xr.Dataset, frame: pd.DataFrame, n: int = 5) -> str:
    """How many neurons each test finds, and the n most tuned to each category."""
    first, second = tests["category"].values
    alpha = tests.attrs["alpha"]
    uncorrected = (tests["p"] < alpha).sum("neuron")
    counts = tests["significant"].sum("neuron").to_pandas().assign(uncorrected=uncorrected)
    both = (tests["significant"].sel(correction="bonferroni").sum("test") == 2).sum().item()
    tuned = frame[["neuron", f"mean_{first}", f"mean_{second}", "t_paired", "t_welch"]]
    tuned = tuned.sort_values("t_paired", ascending=False)
    words, split = int(tests["n_words"].values[0]), tests["n_split"].values
    return "\n".join(
        [
            f"{first} minus {second}, {words} words each: {len(frame)} neurons "
            f"of layer {tests.attrs['layer']}, {site_definition(tests)}",
            f"Words of more than one token: {split[0]} {first}, {split[1]} {second}",
            "",
            f"Significant neurons at {alpha:g}",
            counts.to_string(),
            f"by both tests (bonferroni): {both}",
            "",
            f"Most {first}-tuned",
            tuned.head(n).to_string(index=False, float_format="%.3f"),
            "",
            f"Most {second}-tuned",
            tuned.tail(n)[::-1].to_string(index=False, float_format="%.3f"),
        ]
    )


if __name__ == "__main__":
    with job(snakemake):
        tests = read_dataset(snakemake.input.t_tests)
        frame = tabulate(tests)
        write_table(frame, summarise(tests, frame), *snakemake.output)
