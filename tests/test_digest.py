"""The code digest sees what can change a result, and nothing else."""

import ast
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.workflow import digest
from microtome.workflow.digest import code_digest

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


def planted(folder):
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder


@pytest.fixture
def tree(tmp_path):
    return planted(tmp_path)


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


seeded = settings(derandomize=True, deadline=None, max_examples=150)
LINE = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=20)


@pytest.fixture(scope="module")
def planted_once(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("planted"))


@seeded
@given(
    file=st.sampled_from([name for name, text in FILES.items() if '"""' in text]),
    docstring=LINE,
    comments=st.lists(LINE, min_size=20, max_size=20),
    blank=st.lists(st.integers(0, 2), min_size=20, max_size=20),
)
def test_any_docstrings_comments_and_blank_lines_change_nothing(
    planted_once, file, docstring, comments, blank
):
    before = digest_of(planted_once)
    parsed = ast.parse(FILES[file])
    for node in ast.walk(parsed):
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body[0].value.value = docstring
    lines = ast.unparse(parsed).splitlines()
    text = "".join(
        line + f"  # {comment}" + "\n" * (1 + empty)
        for line, comment, empty in zip(lines, comments, blank, strict=False)
    )
    try:
        (planted_once / file).write_text(text, encoding="utf-8")
        assert digest_of(planted_once) == before
    finally:
        planted(planted_once)


CONSTANTS = st.one_of(
    st.integers(0, 10**6), st.floats(0, 1e6), st.text(max_size=5), st.booleans(), st.none()
)
OPERATORS = st.sampled_from(["+", "-", "*", "/", "//", "%", "<", "==", "and"])
EXPRESSIONS = st.recursive(
    st.one_of(CONSTANTS.map(repr), st.sampled_from("xy")),
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, OPERATORS, inner),
        st.builds("f({}, n={})".format, inner, inner),
        st.builds("[{}, {}]".format, inner, inner),
    ),
    max_leaves=5,
)


@seeded
@given(data=st.data(), first=EXPRESSIONS)
def test_any_other_expression_is_seen(planted_once, data, first):
    """Against the syntax tree: two codes have one digest if and only if they have one tree."""
    second = data.draw(st.one_of(EXPRESSIONS, st.just(f"({first})"), st.just(f"{first} + 0")))
    try:
        digests = []
        for code in (first, second):
            (planted_once / "library" / "late.py").write_text(f"k = {code}\n", encoding="utf-8")
            digests.append(digest_of(planted_once))
    finally:
        planted(planted_once)
    same = ast.dump(ast.parse(first)) == ast.dump(ast.parse(second))
    assert (digests[0] == digests[1]) == same


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
                for name in digest._read(file, (ROOT,))[1]:
                    waiting.extend(digest._files((ROOT,), name))
        for file in seen:
            for line in file.read_text(encoding="utf-8").splitlines():
                words = line.split()
                if len(words) > 3 and words[0] == "from" and words[1].startswith("microtome."):
                    path = ROOT / (words[1].replace(".", "/") + ".py")
                    package = ROOT / words[1].replace(".", "/") / "__init__.py"
                    assert path in seen or package in seen, (script, line)
