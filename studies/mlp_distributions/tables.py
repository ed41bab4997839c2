"""Tables of the study on MLP distributions; see README.md."""

import xarray as xr

from microtome.store.tables import Table


def weight_counts(weight_counts: xr.Dataset) -> Table:
    """One row per weight matrix and bias; laid out as the notebook prints it.

    Source: project 42, part 1.
    """
    rows = [("Type", "Size", "Count", "% total")]
    columns = (weight_counts[name].values for name in ("tensor", "size", "count", "percent"))
    rows += [
        (tensor, size, f"{count:,}", f"{percent:.3f}")
        for tensor, size, count, percent in zip(*columns, strict=True)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    kind, size, count, percent = widths
    lines = [
        f" {a:^{kind}} | {b:^{size}} | {c:>{count}} | {d:>{percent}}".rstrip()
        for a, b, c, d in rows
    ]
    lines.insert(1, "-+-".join("-" * width for width in (kind + 1, *widths[1:-1], percent)))
    return Table(weight_counts.to_dataframe().reset_index(), "\n".join(lines))
