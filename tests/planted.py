"""Small repositories of Python files, edits of them, and the digests of their products."""

import ast
import re
from textwrap import dedent

import pytest

from microtome.workflow import digest
from microtome.workflow.digest import code_digest


def plant(folder, sources):
    """Write files, each after a line `# == its/name.py`."""
    _, *parts = re.split(r"^# == (\S+)\n", dedent(sources), flags=re.MULTILINE)
    for name, content in zip(parts[::2], parts[1::2], strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


def edit(folder, old, new):
    """Replace a piece of text, which stands in one place."""
    files = [path for path in folder.rglob("*.py") if old in path.read_text(encoding="utf-8")]
    assert len(files) == 1, (old, files)
    text = files[0].read_text(encoding="utf-8")
    assert text.count(old) == 1, old
    files[0].write_text(text.replace(old, new), encoding="utf-8")


def products(folder):
    """The digest of every function in products.py, by its name."""
    digest._code.cache_clear()
    file = folder / "products.py"
    names = [n.name for n in ast.parse(file.read_text()).body if isinstance(n, ast.FunctionDef)]
    return {name: code_digest([(file, name)], folder) for name in names if name[0] != "_"}


def rows(edits):
    """A table of edits as the parameters of a test: sources, old, new, and what gets stale."""
    return [
        pytest.param(sources, *change, stale, id=f"{name}: {change[0]!r}")
        for name, (sources, changes) in edits.items()
        for change, stale in changes.items()
    ]


def check_edit(folder, sources, old, new, stale):
    """Plant sources, edit them, and compare the products whose digests change."""
    plant(folder, sources)
    before = products(folder)
    edit(folder, old, new)
    after = products(folder)
    assert {name for name in after if after[name] != before[name]} == set(stale.split())
