"""Tables: a CSV for programs, and beside it the text that a notebook would print."""

from pathlib import Path

import pandas as pd

from microtome.store.files import replacing


def write_table(frame: pd.DataFrame, text: str, csv: str | Path, txt: str | Path) -> None:
    """Write a table.

    Args:
        frame: its rows; the index is left out. Numbers keep the digits that tell them apart.
        text: the same for a reader.
        csv: the CSV file.
        txt: the text file.
    """
    with replacing(csv) as unfinished:
        frame.to_csv(unfinished, index=False, lineterminator="\n")
    with replacing(txt) as unfinished:
        unfinished.write_text(f"{text.rstrip()}\n", encoding="utf-8")
