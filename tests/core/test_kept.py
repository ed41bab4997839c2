"""What is kept of modules from one start to the next counts for the same bytes alone."""

import pytest

from microtome.workflow import kept
from microtome.workflow.digest import _code, code_digest


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".snakemake").mkdir()
    start_anew()
    yield tmp_path / "a.py"
    start_anew()


def start_anew():
    for function in (kept._kept, _code):
        function.cache_clear()
    kept._asked.clear()


def digest(file, parsed):
    """The digest of a function, and whether a file was parsed for it."""
    start_anew()
    parsed.clear()
    found = code_digest([(file, "f")], file.parent)
    kept.keep_modules()
    return found, bool(parsed)


@pytest.fixture
def parsed(monkeypatch):
    calls = []
    module = kept.Module
    monkeypatch.setattr(kept, "Module", lambda *given: calls.append(given) or module(*given))
    return calls


def test_a_file_is_parsed_once_for_its_bytes(file, parsed):
    file.write_text("def f():\n    return g()\n\ndef g():\n    return 1\n")
    first, was_parsed = digest(file, parsed)
    assert was_parsed
    assert digest(file, parsed) == (first, False)
    times = file.stat()
    file.write_text(file.read_text().replace("1", "2"))
    kept.os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # of the same size and time
    second, was_parsed = digest(file, parsed)
    assert was_parsed
    assert second != first
    assert digest(file, parsed) == (second, False)
    assert [path.name for path in kept.KEPT.parent.iterdir()] == [kept.KEPT.name]


@pytest.mark.parametrize("damage", ["cut", "foreign", "another reader", "no folder"])
def test_what_cannot_be_used_is_made_anew(file, parsed, damage, monkeypatch):
    file.write_text("def f():\n    return 1\n")
    first, _ = digest(file, parsed)
    match damage:
        case "cut":
            kept.KEPT.write_bytes(kept.KEPT.read_bytes()[:-10])
        case "foreign":
            kept.KEPT.write_text("not a pickle\n")
        case "another reader":
            monkeypatch.setattr(kept, "_reader", lambda: "another")
        case "no folder":
            kept.KEPT.unlink()
            kept.KEPT.parent.rmdir()
    assert digest(file, parsed) == (first, True)  # and is kept
    assert digest(file, parsed) == (first, False)
