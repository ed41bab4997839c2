"""What is noted of products, and what it is compared with."""

import hashlib
import os
from pathlib import Path

from microtome.store.checksums import record, size_and_time


def noted(file: Path) -> str:
    """The SHA-256 that is on record."""
    record_of = Path("results/checksums", file.relative_to("results")).with_suffix(
        f"{file.suffix}.sha256"
    )
    return record_of.read_text().splitlines()[-1].split()[0]


def test_a_checkpoint_s_weights_are_read_once(tmp_path, monkeypatch):
    """What was just read is noted as given, and not read again while size and time stay."""
    monkeypatch.chdir(tmp_path)
    folder = Path("results/models/tiny/checkpoint")
    folder.mkdir(parents=True)
    weights, config = folder / "model.safetensors", folder / "config.json"
    weights.write_bytes(b"weights")
    config.write_text("{}")
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (weights, config)]
    record(folder, {weights.name: "0" * 64})
    assert [noted(weights), noted(config)] == ["0" * 64, digests[1]]
    record(folder)
    assert [noted(weights), noted(config)] == ["0" * 64, digests[1]]
    os.utime(weights, ns=(0, 1))
    record(folder)
    assert [noted(weights), noted(config)] == digests


def test_a_linked_file_that_was_only_touched_has_the_time_on_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file, link = Path("origin.bin"), Path("results/models/tiny/checkpoint/origin.bin")
    link.parent.mkdir(parents=True)
    file.write_bytes(b"abc")
    os.utime(file, ns=(0, 1))
    assert size_and_time(file, link) == [3, 1]
    link.symlink_to(file.resolve())
    record(link.parent)
    os.utime(file, ns=(0, 2))
    assert size_and_time(file, link) == [3, 1]
    file.write_bytes(b"abd")
    os.utime(file, ns=(0, 2))
    assert size_and_time(file, link) == [3, 2]
    file.write_bytes(b"abcd")
    os.utime(file, ns=(0, 2))
    assert size_and_time(file, link) == [4, 2]
    link.unlink()
    link.write_bytes(b"abc")  # a conversion, whose time is its own
    assert size_and_time(file, link) == [4, 2]
