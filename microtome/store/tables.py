"""Tables: a CSV file for programs, and a text file as a notebook would print it."""

from pathlib import Path

import pandas as pd

from microtome.store.files import replacing


def write_table(frame: pd.DataFrame, text: str, csv: str | Path, txt: str | Path) -> None:
    """Write a table.

    Args:
        frame: the table; its index is left out. Numbers keep as many digits as they have.
        text: the same table for a reader.
        csv: the CSV file to write.
        txt: the text file to write.
    """
    with replacing(csv) as unfinished:
        frame.to_csv(unfinished, index=False, lineterminator="\n")
    with replacing(txt) as unfinished:
        unfinished.write_text(f"{text.rstrip()}\n", encoding="utf-8")
