"""What Microtome's ways of working cost, beside other ways to the same numbers.

    make benchmark                          # every row; the peers' environments are made first
    make benchmark ROWS="layer-6 zero-heads"   # some of them
    python -m benchmarks --help             # the same, less the environments

| module | what it has |
|---|---|
| `rows/` | the rows of the table: what is run, which bars it has to stay below |
| `row` | how a row is measured in interleaved pairs, and how it is written down |
| `ways` | what a measured process does: the sweep, the peers, bare forwards |
| `interventions` | the same where values are changed: all cases in one sweep, a forward for each |
| `process` | a fresh process and its measurements |
| `scratch` | checkpoints and token tables, made on the first run |
| `document` | docs/benchmarks.md, from the rows' measurements |

A new row is a module in `rows/` with a `Row`, named in `rows/__init__.py`.
"""
