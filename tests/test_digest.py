"""The code digest sees what can change a result, and nothing else."""

from pathlib import Path

import pytest

from microtome import digest
from microtome.digest import code_digest

ROOT = Path(__file__).parents[1]

FILES = {
    "scripts/make.py": '''"""Make it."""

from library.a import f

if __name__ == "__main__":
    print(f(2))
''',
    "library/__init__.py": '"""A library."""\n',
    "library/a.py": '''"""First."""

import os
from library import b


def f(x):
    """Square."""
    from library.late import k

    return b.g(x) * x + k  # twice
''',
    "library/b.py": "from .sub import c\n\n\ndef g(x):\n    return c.h(x)\n",
    "library/late.py": "k = 1\n",
    "library/sub/__init__.py": "from .d import constant\n",
    "library/sub/c.py": "h = abs\n",
    "library/sub/d.py": "constant = 4\n",
    "library/unused.py": "x = 1\n",
}


@pytest.fixture
def tree(tmp_path):
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return tmp_path


def digest_of(tree):
    digest._read.cache_clear()
    return code_digest(tree / "scripts" / "make.py", tree)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("scripts/make.py", "f(2)", "f(3)"),
        ("library/a.py", "b.g(x) * x", "b.g(x) + x"),
        ("library/b.py", "return c.h(x)", "return -c.h(x)"),
        ("library/late.py", "k = 1", "k = 2"),
        ("library/sub/c.py", "abs", "str"),
        ("library/sub/__init__.py", "from", "import os\nfrom"),
        ("library/sub/d.py", "4", "5"),
        ("library/__init__.py", '"""A library."""', "side = 1"),
    ],
)
def test_a_change_anywhere_below_is_seen(tree, file, old, new):
    before = digest_of(tree)
    path = tree / file
    path.write_text(path.read_text().replace(old, new))
    assert digest_of(tree) != before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("library/a.py", "# twice", "# once more"),
        ("library/a.py", '"""Square."""', '"""Squares a number."""'),
        ("library/a.py", '"""First."""', ""),
        ("library/a.py", "b.g(x) * x + k", "(\n        b.g(x) * x\n        + k\n    )"),
        ("scripts/make.py", "f(2)", "f( 2 )"),
        ("library/unused.py", "x = 1", "x = 2"),
    ],
)
def test_what_cannot_change_a_result_is_not(tree, file, old, new):
    before = digest_of(tree)
    path = tree / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert digest_of(tree) == before


def test_every_clone_agrees(tree, tmp_path_factory):
    other = tmp_path_factory.mktemp("clone")
    for name in FILES:
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_text((tree / name).read_text())
    assert digest_of(other) == digest_of(tree)


def test_every_import_of_microtome_in_the_scripts_is_followed():
    """Independent of the digest's own parsing: every module named in an import line is read."""
    for script in (ROOT / "scripts").rglob("*.py"):
        digest._read.cache_clear()
        seen, waiting = set(), [script]
        while waiting:
            file = waiting.pop()
            if file not in seen:
                seen.add(file)
                waiting.extend(digest._read(file, ROOT)[1])
        for file in seen:
            for line in file.read_text(encoding="utf-8").splitlines():
                words = line.split()
                if len(words) > 3 and words[0] == "from" and words[1].startswith("microtome."):
                    path = ROOT / (words[1].replace(".", "/") + ".py")
                    package = ROOT / words[1].replace(".", "/") / "__init__.py"
                    assert path in seen or package in seen, (script, line)
