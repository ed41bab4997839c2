"""Texts that are fetched: by their address, or from a data set of the hub at a commit.

What came is kept as it is, and its SHA-256 noted beside it. It is compared with the note whenever
the text is fetched again.
"""

import fnmatch
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from microtome.errors import MicrotomeError, in_short
from microtome.store.checksums import sha256
from microtome.store.files import replacing
from microtome.texts.forms import HUB_FILE
from microtome.texts.stimuli import StimulusSet

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


def fetch_texts(address: str, folder: Path, note: Path) -> None:
    """Fetch several files of a data set of the hub.

    Args:
        address: where they come from, as `microtome.texts.forms` has it.
        folder: where they are put, byte for byte, with numbers for names.
        note: a JSON file, made beside it: `source`, and of each file `source`, `bytes` and
            `sha256`, by its name.

    Raises:
        MicrotomeError: one cannot be had, or no file matches a pattern.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {"source": address, "files": {}}
    for number, one in enumerate(_matching(address)):
        file = folder / f"{number:05d}{Path(one).suffix}"
        with replacing(file) as unfinished:
            hub = HUB_FILE.fullmatch(one)
            assert hub is not None
            shutil.copyfile(_hub_file(one, *hub.groups()), unfinished)
        size = file.stat().st_size
        about["files"][file.name] = {"source": one, "bytes": size, "sha256": sha256(file)}
    for file in folder.iterdir():
        if file.name not in about["files"]:  # of an earlier run
            file.unlink()
    with replacing(note) as unfinished:
        unfinished.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _matching(address: str) -> list[str]:
    """The addresses of single files, in the order of the names that match a pattern."""
    from huggingface_hub import HfApi

    found: list[str] = []
    for one in address.split():
        hub = HUB_FILE.fullmatch(one)
        assert hub is not None
        repository, revision, pattern = hub.groups()
        if "*" not in pattern:
            found.append(one)
            continue
        try:
            files = HfApi().list_repo_files(repository, repo_type="dataset", revision=revision)
        except Exception as error:  # no network, no such data set or revision
            raise _unfetched(one, error) from error
        names = sorted(fnmatch.filter(files, pattern))
        if not names:
            raise MicrotomeError(f"{one}: no file matches; correct `dataset: file:`")
        found += [one.removesuffix(pattern) + name for name in names]
    return list(dict.fromkeys(found))


def _unfetched(address: str, error: Exception) -> MicrotomeError:
    return MicrotomeError(
        f"{address}: cannot be fetched ({in_short(error)}); connect once, or correct `dataset:`"
    )


def with_fetched(found: StimulusSet, place: Path | None) -> StimulusSet:
    """A stimulus set that knows where its texts lie.

    Args:
        found: the set.
        place: what `fetch_text` or `fetch_texts` made for it; None for a set that has its texts.
    """
    return replace(found, fetched=None if found.remote is None else place)


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
        raise _unfetched(address, error) from error
