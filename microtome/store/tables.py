"""Tables: a CSV file for programs, and a text file as a notebook would print it."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from microtome.store.files import replacing


@dataclass(frozen=True)
class Table:
    """A table, and the same for a reader.

    Attributes:
        frame: its rows; the index is left out. Numbers keep the digits that tell them apart.
        text: what a notebook would print.
    """

    frame: pd.DataFrame
    text: str


def write_table(table: Table | pd.DataFrame, csv: str | Path, txt: str | Path) -> None:
    """Write a table.

    Args:
        table: the table; a frame alone is printed as it is.
        csv: the CSV file.
        txt: the text file.
    """
    if isinstance(table, pd.DataFrame):
        table = Table(table, table.to_string(index=False))
    with replacing(csv) as unfinished:
        table.frame.to_csv(unfinished, index=False, lineterminator="\n")
    with replacing(txt) as unfinished:
        unfinished.write_text(f"{table.text.rstrip()}\n", encoding="utf-8")
