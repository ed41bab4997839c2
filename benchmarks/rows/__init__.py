"""The rows, in the order of the table. Each is made in one of this package's modules."""

from benchmarks.row import Row
from benchmarks.rows import corpus, scaling, xl

ROWS: dict[str, Row] = {row.name: row for row in (*xl.ROWS, *corpus.ROWS, *scaling.ROWS)}
