"""What pages read: the size of a picture, the rows of a table, the texts of a stimulus set."""

import csv
import json
import struct
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microtome.texts.documents import read_yaml

#: The templates of all pages, their style sheet and their script.
TEMPLATES = Path(__file__).with_name("templates")
#: The most rows of a table that a page shows whole, and the rows that it shows of a longer one.
WHOLE, FIRST = 64, 32
#: The most characters of a stimulus set that a page shows.
CHARACTERS = 6000


def picture_size(png: Path) -> tuple[int, int]:
    """Width and height of a PNG file, in pixels."""
    with png.open("rb") as file:
        return struct.unpack(">II", file.read(24)[16:])


@dataclass(frozen=True)
class Rows:
    """What is shown of a table.

    Attributes:
        columns: the names of its columns, and whether they hold nothing but numbers.
        rows: the cells of its first rows.
        n: how many rows it has in all.
    """

    columns: list[tuple[str, bool]]
    rows: list[list[str]]
    n: int


def read_table(file: Path) -> Rows:
    """Read a CSV file; numbers are rounded to four digits."""
    with file.open(encoding="utf-8", newline="") as lines:
        names, *all_rows = csv.reader(lines)
    rows = all_rows if len(all_rows) <= WHOLE else all_rows[:FIRST]
    numbers = [all(_is_number(row[i]) for row in rows) for i in range(len(names))]
    shown = [
        [_rounded(cell) if number else cell for cell, number in zip(row, numbers, strict=True)]
        for row in rows
    ]
    return Rows(list(zip(names, numbers, strict=True)), shown, len(all_rows))


def _is_number(cell: str) -> bool:
    """Whether a cell is a number, or empty for one that is undefined."""
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True


def _rounded(cell: str) -> str:
    short = cell if not cell or cell.strip().lstrip("-").isdigit() else f"{float(cell):.4g}"
    return short.replace("-", "−")


@dataclass(frozen=True)
class Texts:
    """A stimulus set as a reader sees it.

    Attributes:
        source: where it is quoted from.
        template: the text that words are filled into, or None.
        words: the words of each category; empty without a template.
        texts: the first texts, or the beginning of a long one; empty with a template.
        left_out: how many more there are.
        made: what else the file says: where texts are fetched from, and what is made of them.
    """

    source: str
    template: str | None
    words: dict[str, list[str]]
    texts: list[str]
    left_out: int
    made: dict[str, str]


def read_texts(file: Path) -> Texts:
    """Read a stimulus file, as far as a page has room for it."""
    content = read_yaml(file)
    room, left_out = CHARACTERS, 0

    def fitting(texts: list[str]) -> list[str]:
        nonlocal room, left_out
        shown: list[str] = []
        for text in texts:
            room -= len(text)
            if room < 0 and shown:
                left_out += 1
            else:
                shown.append(text)
        return shown

    words = {name: fitting(words) for name, words in content.get("words", {}).items()}
    texts = content.get("texts", [])
    if isinstance(texts, dict):
        texts = [f"{label}: {text}" for label, members in texts.items() for text in members]
    if "document" in content:
        texts = [textwrap.shorten(content["document"], CHARACTERS, placeholder=" …")]
    named = ("url", "dataset", "corpus", "field", "like", "cut", "sample", "shuffled", "masked")
    made = {key: _flow(content[key]) for key in named if key in content}
    source = content.get("source") or f"as {content['like']}"
    texts = fitting(texts)
    return Texts(source, content.get("template"), words, texts, left_out, made)


def _flow(value: Any) -> str:
    """A value of a YAML file, in one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_flow(entry)}' for key, entry in value.items())}}}"
    return f"[{', '.join(map(_flow, value))}]" if isinstance(value, list) else str(value)


def read_manifest(file: Path) -> dict[str, Any]:
    """A model's manifest."""
    return json.loads(file.read_text(encoding="utf-8"))
