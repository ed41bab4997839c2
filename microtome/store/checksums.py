"""Checksums of products, by which the next job knows that they are still whole.

When a job ends well, the SHA-256 of each of its outputs goes into `results/checksums/`, in the
form of `sha256sum`; before a job reads an input from `results/`, it compares.
"""

import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from microtome.errors import MicrotomeError
from microtome.store.files import replacing

#: Where products lie, below the working directory, and their checksums.
RESULTS, CHECKSUMS = Path("results"), Path("results/checksums")
#: The folders of `results/` that hold products; logs, benchmarks and reports are none.
KINDS = ("models", "tokens", "activations", "statistics", "figures", "tables")


def record(path: str | Path, known: Mapping[str, str] | None = None) -> None:
    """Note the SHA-256 of a product, or of every file in a folder that is one.

    A folder's files (a checkpoint's, as large as a model) are not read again if they are noted and
    of the same size and time.

    Args:
        path: the product.
        known: SHA-256 of files of a folder that have just been read, by name; these are noted in
            any case.
    """
    path, known = Path(path), known or {}
    for file in files_of(path) if _is_product(path) else []:
        if path.is_dir() and file.name not in known and _untouched(file):
            continue
        status = file.stat()
        with replacing(_checksum_file(file)) as unfinished:
            unfinished.write_text(
                f"# {status.st_size} bytes, mtime {status.st_mtime_ns} ns\n"
                f"{known.get(file.name) or sha256(file)}  {file.as_posix()}\n",
                encoding="utf-8",
            )


def forget(path: str | Path) -> None:
    """Remove what was recorded of a product whose job failed, and which Snakemake then removes."""
    path = Path(path)
    if _is_product(path):
        _checksum_file(path).unlink(missing_ok=True)
        shutil.rmtree(_checksum_file(path).with_name(path.name), ignore_errors=True)


def verify(path: str | Path) -> None:
    """Compare a product with what was recorded when it was made; other files pass.

    A folder (a checkpoint, as large as a model) is read again only where size or time changed.

    Raises:
        MicrotomeError: it differs, or nothing is on record.
    """
    path = Path(path)
    for file in files_of(path) if _is_product(path) else []:
        if not (path.is_dir() and _untouched(file)):
            found = fault(file)
            if found:
                raise MicrotomeError(f"{found}; delete {path} and run again")


def _is_product(path: str | Path) -> bool:
    return Path(path).parts[:1] == RESULTS.parts


def fault(file: Path) -> str | None:
    """What is wrong with a product, or None."""
    try:
        recorded = _checksum_file(file).read_text(encoding="utf-8").splitlines()[-1].split()[0]
    except (FileNotFoundError, IndexError):
        return f"{file}: no checksum on record"
    try:
        found = sha256(file)
    except FileNotFoundError:
        return f"{file}: missing"
    return None if found == recorded else f"{file}: changed or damaged since it was made"


def _untouched(file: Path) -> bool:
    return file.exists() and _noted(file) == _size_and_time(file)


def _size_and_time(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _noted(file: Path) -> list[int] | None:
    """The size and time that a product had when its checksum was recorded."""
    try:
        first = _checksum_file(file).read_text(encoding="utf-8").splitlines()[0]
    except (FileNotFoundError, IndexError):
        return None
    return [int(number) for number in re.findall(r"\d+", first)]


def size_and_time(file: Path, link: Path) -> list[int]:
    """A file's size in bytes and its time in ns, by which a change is known.

    Args:
        file: the file.
        link: a product's file that may be a link to it. Where only its time differs from what is on
            record, and not its content, the time on record is returned.
    """
    now, noted = _size_and_time(file), _noted(link)
    if noted is None or now[0] != noted[0] or not link.exists() or not link.samefile(file):
        return now
    return noted if now == noted or fault(link) is None else now


def files_of(path: Path) -> list[Path]:
    """A product itself, or the files of a folder, less those that Snakemake marks folders with."""
    if not path.is_dir():
        return [path]
    return sorted(f for f in path.rglob("*") if not f.is_dir() and not f.name.startswith("."))


def _checksum_file(file: Path) -> Path:
    return CHECKSUMS / file.relative_to(RESULTS).with_name(f"{file.name}.sha256")


def recorded() -> list[Path]:
    """The files that a checksum is on record of, whether or not they are there."""
    records = (file for kind in KINDS for file in (CHECKSUMS / kind).rglob("*.sha256"))
    return [RESULTS / file.relative_to(CHECKSUMS).with_suffix("") for file in records]


def product_of(file: Path) -> Path:
    """The product that a file belongs to, as a rule names it: itself, or a model's checkpoint."""
    in_checkpoint = file.parts[1:4:2] == ("models", "checkpoint")
    return Path(*file.parts[:4]) if in_checkpoint else file


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
