"""Checksums of products, which tell whether a product is still as it was made.

When a job has ended well, the SHA-256 of each output is written to `results/checksums/`, in the
format of `sha256sum`. Before a job reads an input from `results/`, it compares the two.
"""

import hashlib
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from microtome.errors import MicrotomeError
from microtome.store.files import replacing

#: The folders of products and of their checksums, below the working directory.
RESULTS, CHECKSUMS = Path("results"), Path("results/checksums")
#: The folders of `results/` that hold products; the others hold logs, benchmarks and reports.
KINDS = (
    "models",
    "texts",
    "tokens",
    "activations",
    "interventions",
    "statistics",
    "figures",
    "tables",
    "page",
)


def record(path: str | Path, known: Mapping[str, str] | None = None) -> None:
    """Record the SHA-256 of a product, or of every file in a product that is a folder.

    A folder is a checkpoint, as large as a model. Its files are not read again if they are on
    record with the same size and time.

    Args:
        path: the product.
        known: SHA-256 of files in a folder that have just been read, by name; these are recorded
            in any case.
    """
    path, known = Path(path), known or {}
    for file in files_of(path) if _is_product(path) else []:
        if path.is_dir() and file.name not in known and untouched(file):
            continue
        n_bytes, time = _size_and_time(file)
        digest = known.get(file.name) or sha256(file)
        text = f"# {n_bytes} bytes, mtime {time} ns\n{digest}  {file.as_posix()}\n"
        recorded = _checksum_file(file)
        if recorded.exists() and recorded.read_text(encoding="utf-8") == text:
            continue
        with replacing(recorded) as unfinished:
            unfinished.write_text(text, encoding="utf-8")


def forget(path: str | Path) -> None:
    """Remove the record of a product whose job has failed; Snakemake removes the product.

    One that is still as it was made keeps its record: Snakemake brings back a text that was fetched
    before.
    """
    path = Path(path)
    if _is_product(path) and (path.is_dir() or fault(path)):
        _checksum_file(path).unlink(missing_ok=True)
        shutil.rmtree(_checksum_file(path).with_name(path.name), ignore_errors=True)


def remove_other_shards(folder: Path, kept: Collection[Path]) -> None:
    """Remove shards of an earlier set with their records, and what a killed job has left of one.

    Args:
        folder: where they lie, as numbered files or folders.
        kept: the shards of the present set.
    """
    for shard in folder.glob("[.0-9]*"):
        if shard not in kept:
            if shard.is_dir():
                shutil.rmtree(shard, ignore_errors=True)
            else:
                shard.unlink()
            forget(shard)


def verify(path: str | Path) -> None:
    """Check that a product is as it was recorded. A file that is not a product passes.

    In a folder, only files whose size or time has changed are read. A virtual file is read with its
    shards.

    Raises:
        MicrotomeError: the product differs, is missing, or has no checksum on record.
    """
    path = Path(path)
    for file in files_of(path) if _is_product(path) else []:
        if not (path.is_dir() and untouched(file)):
            found = fault(file)
            if found:
                raise MicrotomeError(f"{found}; delete {path} and run again")
            for shard in shards_of(file):
                if found := fault(shard):
                    raise MicrotomeError(f"{found}; delete {shard} and run again")


def shards_of(file: Path) -> list[Path]:
    """The shards of a virtual file, which is intact; none of any other file."""
    if file.suffix != ".h5" or file.parts[1:2] not in (("tokens",), ("activations",)):
        return []
    from microtome.store import virtual  # here, because a run with nothing to do is without HDF5

    return virtual.shards_of(file)


def _is_product(path: str | Path) -> bool:
    return Path(path).parts[:1] == RESULTS.parts


def fault(file: Path) -> str | None:
    """What is wrong with a product's file, or None."""
    try:
        recorded = _checksum_file(file).read_text(encoding="utf-8").splitlines()[-1].split()[0]
    except (FileNotFoundError, IndexError):
        return f"{file}: no checksum on record"
    try:
        found = sha256(file)
    except FileNotFoundError:
        return f"{file}: missing"
    return None if found == recorded else f"{file}: changed or damaged since it was made"


def untouched(file: Path) -> bool:
    """Whether a product has the size and the time of its record."""
    return file.exists() and _recorded_size_and_time(file) == _size_and_time(file)


def _size_and_time(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _recorded_size_and_time(file: Path) -> list[int] | None:
    """The size and time that a file had when its checksum was recorded."""
    try:
        first = _checksum_file(file).read_text(encoding="utf-8").splitlines()[0]
    except (FileNotFoundError, IndexError):
        return None
    return [int(number) for number in re.findall(r"\d+", first)]


def size_and_time(file: Path, link: Path) -> list[int]:
    """A file's size in bytes and its time in ns, which change when the file does.

    Args:
        file: the file.
        link: a product's file that may be a link to it. If the file's time differs from the record
            but its content does not, the time on record is returned.
    """
    now, recorded = _size_and_time(file), _recorded_size_and_time(link)
    if recorded is None or now[0] != recorded[0] or not link.exists() or not link.samefile(file):
        return now
    return recorded if now == recorded or fault(link) is None else now


def files_of(path: Path) -> list[Path]:
    """A product's files: itself, or all in a folder but the hidden ones, which are Snakemake's."""
    if not path.is_dir():
        return [path]
    return sorted(f for f in path.rglob("*") if not f.is_dir() and not f.name.startswith("."))


def _checksum_file(file: Path) -> Path:
    return CHECKSUMS / file.relative_to(RESULTS).with_name(f"{file.name}.sha256")


def recorded_files() -> list[Path]:
    """The files with a checksum on record, also those that are missing."""
    records = (file for kind in KINDS for file in (CHECKSUMS / kind).rglob("*.sha256"))
    return [RESULTS / file.relative_to(CHECKSUMS).with_suffix("") for file in records]


def product_of(file: Path) -> Path:
    """The rule's output that a file belongs to: itself, a checkpoint folder, a token table."""
    match file.parts:
        case (_, "models", _, "checkpoint", *_):
            return Path(*file.parts[:4])
        case (_, "tokens", _, _, _):  # a shard
            return file.parent.with_suffix(".h5")
    return file


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
