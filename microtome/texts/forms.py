"""What a stimulus file says of a text that is fetched, and of how a long text is cut.

Numbers stand in the file as text (see `microtome.texts.documents`), and are read here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microtome.errors import MicrotomeError, nearest

#: A start that is half of the text, and a length that is the model's context.
MIDDLE, CONTEXT = "middle", "context"
#: The address of a file of a data set: its repository, the commit, and its path there.
HUB_FILE = re.compile(r"hf://datasets/([^@]+)@([0-9a-f]{40})/(.+)")
_CUTS = '{starts: [0, middle], length: 128} or {words: [" a", " b"], before: 50}'


@dataclass(frozen=True)
class Starts:
    """Sequences of one length.

    Attributes:
        starts: the token that each begins with, or `middle`.
        length: tokens of each, or `context`.
    """

    starts: tuple[int | str, ...]
    length: int | str


@dataclass(frozen=True)
class Occurrences:
    """A sequence for each occurrence of some words, which it ends with.

    Attributes:
        words: the words, each with the space before it; each must be one token.
        before: how many tokens stand before the word.
    """

    words: tuple[str, ...]
    before: int

    @property
    def categories(self) -> list[str]:
        """The labels of the sequences: the words without space."""
        return list(dict.fromkeys(word.strip() for word in self.words))


Cut = Starts | Occurrences


@dataclass(frozen=True)
class Url:
    """A text by its address.

    Attributes:
        address: where it is fetched from.
        sha256: what it must have, or None.
    """

    address: str
    sha256: str | None = None
    #: How the file's name ends that it is kept in.
    suffix = "txt"


@dataclass(frozen=True)
class HubFile:
    """A Parquet file of a data set of the hub.

    Attributes:
        repository: the data set's name, with its organisation.
        revision: the commit.
        file: the file's path in the repository.
        text: the column of the texts.
        label: the column of their labels, or None.
        labels: what labels that are numbers are called, from 0 on; may be empty.
        rows: how many rows are taken, from the first on, or a share of them (`5%`); None is all.
        sha256: what the file must have, or None.
    """

    repository: str
    revision: str
    file: str
    text: str
    label: str | None = None
    labels: tuple[str, ...] = ()
    rows: int | str | None = None
    sha256: str | None = None
    #: How the file's name ends that it is kept in.
    suffix = "parquet"

    @property
    def address(self) -> str:
        """Where it is fetched from."""
        return f"hf://datasets/{self.repository}@{self.revision}/{self.file}"


def read_cut(path: Path, cut: Any) -> Cut:
    """Read `cut:` of a stimulus file.

    Raises:
        MicrotomeError: it is neither form, or has a number that means nothing.
    """
    if isinstance(cut, dict) and set(cut) == {"starts", "length"}:
        starts = _list(path, "cut: starts", cut["starts"])
        numbers = (n if n == MIDDLE else whole(path, "cut: starts", n) for n in starts)
        length = cut["length"]
        if length != CONTEXT:
            length = whole(path, "cut: length", length, least=1)
        return Starts(tuple(numbers), length)
    if isinstance(cut, dict) and set(cut) == {"words", "before"}:
        words = _list(path, "cut: words", cut["words"])
        if not all(isinstance(word, str) and word.strip() for word in words):
            raise MicrotomeError(f"{path}: cut: words: wants words; take empty ones out")
        return Occurrences(tuple(words), whole(path, "cut: before", cut["before"]))
    raise MicrotomeError(f"{path}: cut: wants {_CUTS}")


def read_url(path: Path, url: Any, sha256: Any) -> Url:
    """Read `url:` of a stimulus file.

    Raises:
        MicrotomeError: an address or a sum that cannot be one.
    """
    if not isinstance(url, str) or not re.match(r"https?://[^/\s]+/\S*$", url):
        raise MicrotomeError(f"{path}: url: wants the address of a text, as in https://…/a.txt")
    return Url(url, _sha256(path, sha256))


def read_hub_file(path: Path, dataset: Any, sha256: Any) -> HubFile:
    """Read `dataset:` of a stimulus file.

    Raises:
        MicrotomeError: a key that is missing or unknown, a revision that is no commit, a file that
            is not Parquet, names of labels without labels, or a number of rows that is none.
    """
    known = ["repository", "revision", "file", "text", "label", "labels", "rows"]
    if not isinstance(dataset, dict):
        raise MicrotomeError(f"{path}: dataset: wants {{{', '.join(known[:4])}: …}}")
    for key, value in dataset.items():
        if key not in known:
            raise MicrotomeError(f"{path}: dataset: unknown key {key!r}; {nearest(key, known)}")
        if key != "labels" and not (isinstance(value, str) and value):
            raise MicrotomeError(f"{path}: dataset: {key}: is empty or no text; correct it")
    for key in known[:4]:
        if key not in dataset:
            raise MicrotomeError(f"{path}: dataset: `{key}:` is missing; name it")
    if not re.fullmatch(r"[0-9a-f]{40}", dataset["revision"]):
        raise MicrotomeError(
            f"{path}: dataset: revision: {dataset['revision']!r} is no commit; pin it by the 40 "
            "hex digits that the hub shows under Files, History"
        )
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", dataset["repository"]):
        raise MicrotomeError(f"{path}: dataset: repository: wants organisation/name")
    if not dataset["file"].endswith(".parquet"):
        raise MicrotomeError(f"{path}: dataset: file: wants a Parquet file, as in …/train.parquet")
    named = dataset.get("labels")
    labels = () if named is None else tuple(_list(path, "dataset: labels", named))
    if labels and "label" not in dataset:
        raise MicrotomeError(
            f"{path}: dataset: labels: names the values of no column; add `label:`"
        )
    rows = dataset.get("rows")
    if rows is not None and not re.fullmatch(r"(100|[1-9]?[0-9])%", rows):
        rows = whole(path, "dataset: rows", rows, least=1)
    return HubFile(
        *(dataset["repository"], dataset["revision"], dataset["file"], dataset["text"]),
        label=dataset.get("label"),
        labels=labels,
        rows=rows,
        sha256=_sha256(path, sha256),
    )


def read_seeds(path: Path, seeds: Any) -> tuple[int, ...]:
    """Read `shuffled:` of a stimulus file, a seed or a list of them.

    Raises:
        MicrotomeError: a seed that is none, or stands there twice.
    """
    several = _list(path, "shuffled", seeds) if isinstance(seeds, list) else [seeds]
    return tuple(whole(path, "shuffled", seed) for seed in several)


def whole(path: Path, place: str, text: Any, *, least: int = 0) -> int:
    """Read a whole number of a stimulus file.

    Raises:
        MicrotomeError: it is none, or less than `least`.
    """
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]{1,15}", text) or int(text) < least:
        raise MicrotomeError(f"{path}: {place}: wants a whole number from {least} on, has {text!r}")
    return int(text)


def _list(path: Path, place: str, found: Any) -> Sequence[Any]:
    """A list in which nothing stands twice."""
    if not isinstance(found, list) or not found:
        raise MicrotomeError(f"{path}: {place}: wants a list, as in [a, b]")
    for number, entry in enumerate(found):
        if entry in found[:number]:
            raise MicrotomeError(f"{path}: {place}: {entry!r} stands there twice; take one out")
    return found


def _sha256(path: Path, found: Any) -> str | None:
    if found is not None and not re.fullmatch(r"[0-9a-f]{64}", str(found)):
        raise MicrotomeError(f"{path}: sha256: wants 64 hex digits")
    return found
