"""The texts of a stimulus set as a stream: never more than a few of them are in memory."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microtome.errors import MicrotomeError, in_short
from microtome.texts.forms import Corpus, HubFiles, Lengths, Url
from microtome.texts.stimuli import Stimulus, StimulusSet

if TYPE_CHECKING:
    from fastparquet import ParquetFile

#: Characters of a long text that are read at once.
PIECE = 1 << 20


def documents(found: StimulusSet) -> Iterator[Stimulus]:
    """The texts of a stimulus set, in their order.

    Of a corpus, and of what is cut into sequences of one length, empty texts are left out. Where a
    text file is cut so, its text comes in pieces, of which all but the last one `continues`.

    Args:
        found: the set; if its texts are fetched from elsewhere, with where they lie.

    Raises:
        MicrotomeError: a file that cannot be read, is not UTF-8, or lacks what the set names.
    """
    in_pieces = isinstance(found.cut, Lengths)
    if found.corpus is not None:
        for file in found.corpus.files:
            yield from _of_file(file, found.corpus.field, in_pieces)
    elif found.remote is None:
        yield from found.stimuli
    elif found.fetched is None:
        raise MicrotomeError(f"{found.file}: its texts are not fetched yet")
    elif isinstance(found.remote, Url):
        yield from _of_url(found.remote, found.fetched, in_pieces)
    else:
        yield from _rows(found.remote, found.fetched, leaves_out=in_pieces)


def check_fields(corpus: Corpus, *, of_each_kind: bool = False) -> None:
    """Read the beginning of each file of a corpus, so that a wrong field costs no time.

    Args:
        corpus: the corpus.
        of_each_kind: look at the first file of each kind alone.

    Raises:
        MicrotomeError: a file that lacks the field, or cannot be read.
    """
    first = {file.suffix: file for file in reversed(corpus.files)}
    for file in first.values() if of_each_kind else corpus.files:
        if file.suffix == ".parquet":
            _open_parquet(str(file), file, [corpus.field])
        elif file.suffix == ".jsonl":
            next(_of_file(file, corpus.field, in_pieces=False), None)


def characters(found: StimulusSet) -> int:
    """About how many characters the texts of a set have; files are not read.

    Args:
        found: the set; if its texts are fetched from elsewhere, with where they lie.
    """
    if found.corpus is not None:
        return sum(_characters(file, found.corpus.field) for file in found.corpus.files)
    if found.remote is None or found.fetched is None:
        return sum(len(stimulus.text) for stimulus in found.stimuli)
    if isinstance(found.remote, Url):
        return found.fetched.stat().st_size
    opened = _opened(found.remote, found.fetched)
    n = sum(file.count() for file in opened.values())
    size = sum(_column_size(file, found.remote.text) for file in opened.values())
    return round(size * _n_rows(found.remote, n) / max(1, n))


def _characters(file: Path, field: str) -> int:
    if file.suffix == ".parquet":
        return _column_size(_open_parquet(str(file), file, [field]), field)
    return file.stat().st_size


def _column_size(opened: "ParquetFile", name: str) -> int:
    """The bytes of a column before compression."""
    return sum(
        chunk.meta_data.total_uncompressed_size
        for group in opened.row_groups
        for chunk in group.columns
        if chunk.meta_data.path_in_schema == [name]
    )


def _of_file(file: Path, field: str, in_pieces: bool) -> Iterator[Stimulus]:
    """The documents of a corpus's file."""
    if file.suffix == ".txt":
        yield from _text(str(file), file, in_pieces)
        return
    if file.suffix == ".jsonl":
        found = _lines(file, field)
    else:
        opened = _open_parquet(str(file), file, [field])
        found = ((place, row[0]) for place, row in _parquet(str(file), opened, [field]))
    for place, text in found:
        if text is not None and not isinstance(text, str):
            raise MicrotomeError(f"{place}: {field!r} is no text; correct `field:`")
        if text and not text.isspace():
            _check_characters(place, field, text)
            yield Stimulus(text, origin=place)


def _check_characters(place: str, field: str, text: str) -> None:
    """Refuse halves of characters (lone surrogates), which JSON can spell."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MicrotomeError(
            f"{place}: {field!r} has half a character, {text[error.start]!r}; take it out"
        ) from None


def _text(place: str, file: Path, in_pieces: bool) -> Iterator[Stimulus]:
    """A text file with its own ends of lines, whole or in pieces; nothing of an empty one."""
    several = False
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            text = stream.read(PIECE if in_pieces else -1)
            while in_pieces and (following := stream.read(PIECE)):
                yield Stimulus(text, origin=place, continues=True)
                text, several = following, True
    except UnicodeDecodeError:
        raise MicrotomeError(f"{place}: {_not_utf8(file)}") from None
    except OSError as error:
        raise MicrotomeError(f"{place}: {error.strerror}; name a file that can be read") from None
    if several or (text and not text.isspace()):
        yield Stimulus(text, origin=place)


def _not_utf8(file: Path) -> str:
    """Where a file is not UTF-8."""
    before = 0
    with file.open("rb") as stream:
        for line in stream:
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return f"byte {before + error.start} is not UTF-8; save it as such"
            before += len(line)
    return "is not UTF-8; save it as such"


def _of_url(source: Url, file: Path, in_pieces: bool) -> Iterator[Stimulus]:
    n = 0
    for n, piece in enumerate(_text(source.address, file, in_pieces), start=1):
        if "\0" in piece.text:
            n = 0
            break
        yield piece
    if n == 0:
        raise MicrotomeError(f"{source.address}: is empty, or no text; correct `url:`")


def _lines(file: Path, field: str) -> Iterator[tuple[str, Any]]:
    """The place and the field of each line of a JSONL file; empty lines are left out."""
    try:
        with file.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.isspace():
                    place = f"{file}: line {number}"
                    yield place, _field(place, line, field)
    except OSError as error:
        raise MicrotomeError(f"{file}: {error.strerror}; name a file that can be read") from None


def _field(place: str, line: bytes, field: str) -> Any:
    try:
        found = json.loads(line)
    except UnicodeDecodeError:
        raise MicrotomeError(f"{place}: is not UTF-8; save it as such") from None
    except ValueError as error:
        raise MicrotomeError(f"{place}: is not JSON ({error}); correct it") from None
    if not isinstance(found, dict):
        raise MicrotomeError(f"{place}: wants {{{field!r}: …}}, has no fields; correct it")
    if field not in found:
        raise MicrotomeError(
            f"{place}: has no field {field!r}, only {', '.join(map(repr, found))}; correct `field:`"
        )
    return found[field]


def _open_parquet(place: str, file: Path, columns: list[str]) -> "ParquetFile":
    from fastparquet import ParquetFile

    try:
        opened = ParquetFile(str(file))
    except Exception as error:
        raise MicrotomeError(f"{place}: is no Parquet file ({in_short(error)})") from None
    for name in columns:
        if name not in opened.columns:
            raise MicrotomeError(
                f"{place}: has no column {name!r}, only {', '.join(map(repr, opened.columns))}; "
                "correct its name"
            )
    return opened


def _parquet(
    place: str, opened: "ParquetFile", columns: list[str]
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The place and the columns of each row of a Parquet file, read by groups of rows."""
    number = 0
    for index in range(len(opened.row_groups)):
        try:
            table = opened[index].to_pandas(columns=columns)
        except Exception as error:  # damaged
            raise MicrotomeError(f"{place}: cannot be read ({in_short(error)})") from error
        values = (table[name].astype(object).where(table[name].notna(), None) for name in columns)
        for row in zip(*(column.tolist() for column in values), strict=True):
            yield f"{place}: row {number}", row
            number += 1


def _rows(source: HubFiles, fetched: Path, *, leaves_out: bool) -> Iterator[Stimulus]:
    """The rows of a data set, with their labels; those without text may be left out."""
    opened = _opened(source, fetched)
    columns = [name for name in (source.text, source.label) if name is not None]
    n = _n_rows(source, sum(file.count() for file in opened.values()))
    rows = (row for place, file in opened.items() for row in _parquet(place, file, columns))
    for place, row in islice(rows, n):
        text = row[0]
        if text is not None and not isinstance(text, str):
            raise MicrotomeError(f"{place}: {source.text} is no text; correct `text:`")
        if not text or text.isspace():
            if leaves_out:
                continue
            raise MicrotomeError(f"{place}: {source.text} is empty; take fewer rows")
        category = None if source.label is None else _label(source, row[1], place)
        yield Stimulus(text, category=category, origin=place)


def _opened(source: HubFiles, fetched: Path) -> "dict[str, ParquetFile]":
    """The files of a data set, by what they are called in messages."""
    files = sorted(fetched.glob("[!.]*")) if fetched.is_dir() else [fetched]  # Snakemake hides one
    columns = [name for name in (source.text, source.label) if name is not None]
    places = [str(file) if source.several else source.address for file in files]
    return {p: _open_parquet(p, file, columns) for p, file in zip(places, files, strict=True)}


def _n_rows(source: HubFiles, n: int) -> int:
    """How many rows are taken; a share is rounded as the package `datasets` does."""
    if isinstance(source.rows, str):
        return max(1, round(int(source.rows.rstrip("%")) * n / 100))
    return n if source.rows is None else source.rows


def _label(source: HubFiles, value: Any, place: str) -> str:
    if not source.labels:
        return str(value)
    if value not in range(len(source.labels)):
        raise MicrotomeError(
            f"{place}: {source.label} is {value}, and `labels:` names {len(source.labels)}"
        )
    return source.labels[value]
