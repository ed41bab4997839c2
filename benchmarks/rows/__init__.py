"""The rows, in the order of the table. Each is made in one of this package's modules."""

from benchmarks.row import Row
from benchmarks.rows import corpus, disk, flat, interventions, store, workflow, xl

ROWS: dict[str, Row] = {
    row.name: row
    for module in (xl, corpus, store, flat, disk, interventions, workflow)
    for row in module.ROWS
}
