"""Texts that are fetched: by their address, or of a data set of the hub at a commit.

What came is kept as it is, and its SHA-256 noted beside it. It is compared with the note whenever
the text is fetched again.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from microtome.errors import MicrotomeError, in_short
from microtome.store.checksums import sha256
from microtome.store.files import replacing
from microtome.texts.forms import HUB_FILE, HubFile, Url
from microtome.texts.stimuli import Stimulus, StimulusSet

#: Seconds until an address that does not answer is given up.
PATIENCE = 60


def fetch_text(address: str, file: Path, note: Path, *, expected: str | None = None) -> None:
    """Fetch a text.

    Args:
        address: where it comes from, as `microtome.texts.forms` has it.
        file: where it is put, byte for byte.
        note: a JSON file, made beside it: `source`, `bytes` and `sha256`. If there is one of the
            same source, the text must have its sum.
        expected: the SHA-256 that the stimulus file says, or None.

    Raises:
        MicrotomeError: it cannot be had, or is not what the note or the stimulus file says it was;
            neither file is changed then.
    """
    with replacing(file) as unfinished:
        hub = HUB_FILE.fullmatch(address)
        if hub:
            shutil.copyfile(_hub_file(address, *hub.groups()), unfinished)
        else:
            _download(address, unfinished)
        found = sha256(unfinished)
        if expected not in (None, found):
            raise MicrotomeError(
                f"{address}: has the SHA-256 {found}, the stimulus file says {expected}; correct "
                "`sha256:` if this text is meant"
            )
        known = _noted(note)
        if known.get("source") == address and known["sha256"] != found:
            raise MicrotomeError(
                f"{address}: is not what it was (SHA-256 {found}, at the first fetch "
                f"{known['sha256']}); delete {note} to take it as it is now"
            )
        size = unfinished.stat().st_size
    about = {"source": address, "bytes": size, "sha256": found}
    with replacing(note) as unfinished:
        unfinished.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def with_fetched(found: StimulusSet, file: Path | None) -> StimulusSet:
    """A stimulus set with its texts.

    Args:
        found: the set.
        file: what `fetch_text` made for it; None for a set that has its texts.

    Raises:
        MicrotomeError: a file that cannot be read, or lacks what the set names.
    """
    if found.remote is None or file is None:
        return found
    if isinstance(found.remote, Url):
        stimuli = [_whole_text(found.remote, file)]
    else:
        stimuli = list(_rows(found.remote, file))
    return replace(found, stimuli=tuple(stimuli))


def _whole_text(source: Url, file: Path) -> Stimulus:
    """A text as it came, with its own ends of lines."""
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise MicrotomeError(f"{source.address}: byte {error.start} is not UTF-8") from None
    if not text.strip() or "\0" in text:
        raise MicrotomeError(f"{source.address}: is empty, or no text; correct `url:`")
    return Stimulus(text, origin=source.address)


def _rows(source: HubFile, file: Path) -> Iterator[Stimulus]:
    """The rows of a data set, with their labels."""
    from fastparquet import ParquetFile

    columns = [name for name in (source.text, source.label) if name is not None]
    try:
        table = ParquetFile(str(file)).to_pandas(columns=columns)
    except Exception as error:  # damaged, or without a column
        raise MicrotomeError(
            f"{source.address}: cannot be read ({in_short(error)}); correct `text:` and `label:`"
        ) from error
    for number, row in enumerate(table.head(_n_rows(source, len(table))).itertuples(index=False)):
        place = f"{source.address}: row {number}"
        text = row[0]
        if not isinstance(text, str) or not text.strip() or "\0" in text:
            raise MicrotomeError(f"{place}: {source.text} is empty or no text; take fewer rows")
        category = None if source.label is None else _label(source, row[1], place)
        yield Stimulus(text, category=category, origin=place)


def _n_rows(source: HubFile, n: int) -> int:
    """How many rows are taken; a share is rounded as the package `datasets` does."""
    if isinstance(source.rows, str):
        return max(1, round(int(source.rows.rstrip("%")) * n / 100))
    return n if source.rows is None else source.rows


def _label(source: HubFile, value: Any, place: str) -> str:
    if not source.labels:
        return str(value)
    if value not in range(len(source.labels)):
        raise MicrotomeError(
            f"{place}: {source.label} is {value}, and `labels:` names {len(source.labels)}"
        )
    return source.labels[value]


def _noted(note: Path) -> dict[str, Any]:
    """What was noted at the first fetch; nothing if that is missing or damaged."""
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        return found if {"source", "sha256"} <= found.keys() else {}
    except (OSError, ValueError, AttributeError):
        return {}


def _download(address: str, file: Path) -> None:
    # Some servers refuse Python's own name.
    request = Request(address, headers={"User-Agent": "microtome"})
    try:
        with urlopen(request, timeout=PATIENCE) as answer, file.open("wb") as stream:
            shutil.copyfileobj(answer, stream)
    except (URLError, TimeoutError, ConnectionError) as error:
        raise MicrotomeError(
            f"{address}: cannot be fetched ({in_short(error)}); connect once, or correct `url:`"
        ) from error


def _hub_file(address: str, repository: str, revision: str, file: str) -> Path:
    """The file in the hub's own cache."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, file, repo_type="dataset", revision=revision))
    except Exception as error:  # no network, no such data set, revision or file
        raise MicrotomeError(
            f"{address}: cannot be fetched ({in_short(error)}); connect once, or correct `dataset:`"
        ) from error
