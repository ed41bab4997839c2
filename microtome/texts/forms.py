"""What a stimulus file says of texts that lie elsewhere, and of how texts are cut.

Numbers stand in the file as text (see `microtome.texts.documents`), and are read here.
"""

import math
import os
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
#: How a cut of one length takes documents.
APART, JOINED = "apart", "joined"
#: The kinds of files that a corpus may have.
CORPUS_FILES = (".txt", ".jsonl", ".parquet")
_CUTS = '{starts: [0, middle], length: 128}, {words: [" a", " b"], before: 50}, or {length: 128}'
_FLAGS = ("bos", "eos", "special")


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


@dataclass(frozen=True)
class Lengths:
    """All of a text, in sequences of one length; what is left at the end is a shorter one.

    Attributes:
        length: tokens of each, with those that are added to it, or `context`.
        overlap: how many of a sequence's tokens stand at the beginning of the next one, too.
        joined: whether a sequence may have tokens of several texts, one after another.
        bos: whether each begins with the tokenizer's BOS token.
        eos: whether the tokenizer's EOS token ends each text.
        special: whether each has the special tokens that the tokenizer adds to a text.
    """

    length: int | str
    overlap: int = 0
    joined: bool = False
    bos: bool = False
    eos: bool = False
    special: bool = False


Cut = Starts | Occurrences | Lengths


@dataclass(frozen=True)
class Sample:
    """A draw of sequences, which keep their order.

    Attributes:
        seed: of the draw.
        n: how many are drawn, or None for a share.
        share: the share that is drawn, from 0 to 1.
    """

    seed: int
    n: int | None = None
    share: float = 1.0


@dataclass(frozen=True)
class Corpus:
    """Documents in files.

    Attributes:
        path: a file, or a folder with files.
        files: the files, in the order of their paths.
        field: the field of the text in JSONL and Parquet files.
    """

    path: Path
    files: tuple[Path, ...]
    field: str


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
class HubFiles:
    """Parquet files of a data set of the hub.

    Attributes:
        repository: the data set's name, with its organisation.
        revision: the commit.
        files: the files' paths in the repository; with `*`, those of all files that match.
        text: the column of the texts.
        label: the column of their labels, or None.
        labels: what labels that are numbers are called, from 0 on; may be empty.
        rows: how many rows are taken, from the first on, or a share of them (`5%`); None is all.
        sha256: what the one file must have, or None.
    """

    repository: str
    revision: str
    files: tuple[str, ...]
    text: str
    label: str | None = None
    labels: tuple[str, ...] = ()
    rows: int | str | None = None
    sha256: str | None = None

    @property
    def several(self) -> bool:
        """Whether there may be more than one file, so that they are kept in a folder."""
        return len(self.files) > 1 or "*" in self.files[0]

    @property
    def suffix(self) -> str | None:
        """How the file's name ends that it is kept in; None of a folder."""
        return None if self.several else "parquet"

    @property
    def address(self) -> str:
        """Where it is fetched from; several files have spaces between them."""
        home = f"hf://datasets/{self.repository}@{self.revision}"
        return " ".join(f"{home}/{file}" for file in self.files)


def read_cut(path: Path, cut: Any) -> Cut:
    """Read `cut:` of a stimulus file.

    Raises:
        MicrotomeError: it has none of the forms, or a number that means nothing.
    """
    if isinstance(cut, dict) and "length" in cut and "starts" not in cut:
        return _read_lengths(path, cut)
    if isinstance(cut, dict) and set(cut) == {"starts", "length"}:
        starts = _list(path, "cut: starts", cut["starts"])
        numbers = (n if n == MIDDLE else whole(path, "cut: starts", n) for n in starts)
        return Starts(tuple(numbers), _length(path, cut["length"]))
    if isinstance(cut, dict) and set(cut) == {"words", "before"}:
        words = _list(path, "cut: words", cut["words"])
        if not all(isinstance(word, str) and word.strip() for word in words):
            raise MicrotomeError(f"{path}: cut: words: wants words; take empty ones out")
        return Occurrences(tuple(words), whole(path, "cut: before", cut["before"]))
    raise MicrotomeError(f"{path}: cut: wants {_CUTS}")


def _length(path: Path, length: Any) -> int | str:
    return CONTEXT if length == CONTEXT else whole(path, "cut: length", length, least=1)


def _read_lengths(path: Path, cut: dict[str, Any]) -> Lengths:
    known = ["length", "overlap", "documents", *_FLAGS]
    for key in cut:
        if key not in known:
            raise MicrotomeError(f"{path}: cut: unknown key {key!r}; {nearest(key, known)}")
    for key in _FLAGS:
        if cut.get(key, "true") not in ("true", "false"):
            raise MicrotomeError(f"{path}: cut: {key}: wants true or false, has {cut[key]!r}")
    if cut.get("documents", APART) not in (APART, JOINED):
        raise MicrotomeError(
            f"{path}: cut: documents: wants {APART} or {JOINED}, has {cut['documents']!r}"
        )
    flags = {key: cut.get(key) == "true" for key in _FLAGS}
    if flags["bos"] and flags["special"]:
        raise MicrotomeError(
            f"{path}: cut: bos: special tokens have the BOS token where the tokenizer adds it; "
            "take one of the two out"
        )
    length = _length(path, cut["length"])
    overlap = whole(path, "cut: overlap", cut.get("overlap", "0"))
    room = math.inf if isinstance(length, str) else length - flags["bos"]
    if room == 0:
        raise MicrotomeError(f"{path}: cut: length: the BOS token is all of a sequence; take more")
    if overlap >= room:
        raise MicrotomeError(
            f"{path}: cut: overlap: {overlap} tokens are all of a sequence's {room}; take fewer"
        )
    return Lengths(length, overlap, cut.get("documents") == JOINED, **flags)


def read_sample(path: Path, sample: Any) -> Sample:
    """Read `sample:` of a stimulus file.

    Raises:
        MicrotomeError: a key that is missing or unknown, a share or a number that means nothing.
    """
    if not isinstance(sample, dict) or set(sample) != {"sequences", "seed"}:
        raise MicrotomeError(
            f"{path}: sample: wants {{sequences: 1000, seed: 0}} or {{sequences: 5%, seed: 0}}"
        )
    seed, found = whole(path, "sample: seed", sample["seed"]), sample["sequences"]
    if not (isinstance(found, str) and found.endswith("%")):
        return Sample(seed, n=whole(path, "sample: sequences", found, least=1))
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,12})?%", found) or not 0 < float(found[:-1]) <= 100:
        raise MicrotomeError(
            f"{path}: sample: sequences: wants a number, or a share up to 100%, has {found!r}"
        )
    return Sample(seed, share=float(found[:-1]) / 100)


def read_corpus(path: Path, corpus: Any, field: Any) -> Corpus:
    """Read `corpus:` and `field:` of a stimulus file.

    Args:
        path: the stimulus file.
        corpus: a file or a folder, relative to the stimulus file.
        field: the name of the text's field, or None for `text`.

    Raises:
        MicrotomeError: there is no such file or folder, or none with texts; a field of files that
            have none.
    """
    kinds = f"{', '.join(CORPUS_FILES[:-1])} or {CORPUS_FILES[-1]}"
    if not isinstance(corpus, str) or not corpus:
        raise MicrotomeError(f"{path}: corpus: wants a file ({kinds}) or a folder of them")
    place = Path(os.path.normpath(path.parent / corpus))
    if place.is_dir():
        found = [
            file
            for file in sorted(place.rglob("*"))
            if not any(part.startswith(".") for part in file.relative_to(place).parts)
        ]
        for file in found:
            if file.is_symlink() and not file.is_file():
                raise MicrotomeError(
                    f"{path}: corpus: {file} is a link that leads to no file; put files there"
                )
        files = [file for file in found if file.suffix in CORPUS_FILES and file.is_file()]
        if not files:
            raise MicrotomeError(f"{path}: corpus: {place} has no file of texts ({kinds})")
    elif not place.exists():
        raise MicrotomeError(
            f"{path}: corpus: no file or folder {place}; correct it (a path from this file on)"
        )
    elif place.suffix not in CORPUS_FILES:
        raise MicrotomeError(f"{path}: corpus: {place} is no file of texts ({kinds})")
    else:
        files = [place]
    for file in files:
        if re.search(r"\{\w+\}", str(file)):  # a wildcard of Snakemake
            raise MicrotomeError(
                f"{path}: corpus: {file}: a name with words in braces cannot be read; take another"
            )
    if field is not None and not (isinstance(field, str) and field):
        raise MicrotomeError(f"{path}: field: wants the name of the texts' field")
    if field is not None and all(file.suffix == ".txt" for file in files):
        raise MicrotomeError(f"{path}: field: a text has no fields; take it out")
    return Corpus(place, tuple(files), field or "text")


def read_url(path: Path, url: Any, sha256: Any) -> Url:
    """Read `url:` of a stimulus file.

    Raises:
        MicrotomeError: an address or a sum that cannot be one.
    """
    if not isinstance(url, str) or not re.match(r"https?://[^/\s]+/\S*$", url):
        raise MicrotomeError(f"{path}: url: wants the address of a text, as in https://…/a.txt")
    return Url(url, _sha256(path, sha256))


def read_hub_files(path: Path, dataset: Any, sha256: Any) -> HubFiles:
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
        if key not in ("labels", "file") and not (isinstance(value, str) and value):
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
    file = dataset["file"]
    files = _list(path, "dataset: file", file) if isinstance(file, list) else [file]
    if not all(isinstance(name, str) and re.fullmatch(r"\S+\.parquet", name) for name in files):
        raise MicrotomeError(
            f"{path}: dataset: file: wants a Parquet file, as in …/train.parquet, several, or a "
            "pattern, as in …/train-*.parquet"
        )
    named = dataset.get("labels")
    labels = () if named is None else tuple(_list(path, "dataset: labels", named))
    if labels and "label" not in dataset:
        raise MicrotomeError(
            f"{path}: dataset: labels: names the values of no column; add `label:`"
        )
    rows = dataset.get("rows")
    if rows is not None and not re.fullmatch(r"(100|[1-9][0-9]?)%", rows):
        rows = whole(path, "dataset: rows", rows, least=1)
    found = HubFiles(
        *(dataset["repository"], dataset["revision"], tuple(files), dataset["text"]),
        label=dataset.get("label"),
        labels=labels,
        rows=rows,
        sha256=_sha256(path, sha256),
    )
    if found.sha256 and found.several:
        raise MicrotomeError(
            f"{path}: sha256: is of one file, and `dataset:` may have several; take it out (the "
            "commit pins them)"
        )
    return found


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
