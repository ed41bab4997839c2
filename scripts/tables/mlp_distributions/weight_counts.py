"""How many weights and biases an MLP has, as CSV and as text."""

from pathlib import Path

import xarray as xr

from microtome.store.datasets import read_dataset
from microtome.store.files import replacing
from microtome.workflow.jobs import job


def text(counts: xr.Dataset) -> str:
    """Lay out `weight_counts` as the notebook prints it; source: project 42, part 1."""
    rows = [("Type", "Size", "Count", "% total")]
    rows += [
        (tensor, size, f"{count:,}", f"{percent:.3f}")
        for tensor, size, count, percent in zip(
            *(counts[name].values for name in ("tensor", "size", "count", "percent")), strict=True
        )
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    kind, size, count, percent = widths
    lines = [
        f" {a:^{kind}} | {b:^{size}} | {c:>{count}} | {d:>{percent}}".rstrip()
        for a, b, c, d in rows
    ]
    lines.insert(1, "-+-".join("-" * width for width in (kind + 1, *widths[1:-1], percent)))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with job(snakemake):
        counts = read_dataset(snakemake.input.weight_counts)
        with replacing(Path(snakemake.output.csv)) as unfinished:
            counts.to_dataframe().to_csv(unfinished, lineterminator="\n")
        with replacing(Path(snakemake.output.txt)) as unfinished:
            unfinished.write_text(text(counts), encoding="utf-8")
