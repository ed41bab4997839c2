"""What the code digest is made of: scripts, studies, packages, code of any kind."""

import ast
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import edit, plant, products

from microtome.errors import MicrotomeError
from microtome.workflow import digest
from microtome.workflow.digest import code_digest, imported, script_digest

ROOT = Path(__file__).parents[2]

CODE = """
# == make.py
\"\"\"Make it.\"\"\"
from library.a import f

if __name__ == "__main__":
    print(f(2))
# == library/__init__.py
\"\"\"A library.\"\"\"
# == library/a.py
\"\"\"First.\"\"\"
import os


def f(x):
    \"\"\"Square.\"\"\"
    from library.late import k

    return x * x + k  # twice


def g(x):
    return os.sep * x
# == library/late.py
k = 1
"""


@pytest.mark.parametrize(
    ("old", "new", "seen"),
    [
        ("f(2)", "f(3)", True),
        ("f(2)", "f( 2 )", False),
        ("Make it.", "It is made.", False),
        ("x * x", "x + x", True),
        ("os.sep", "os.path.sep", False),
        ("k = 1", "k = 2", True),
        ('"""A library."""', "side = print(1)", False),
        ('"""A library."""', "print(1)", True),
    ],
)
def test_a_script_counts_whole(tmp_path, old, new, seen):
    plant(tmp_path, CODE)

    def digest_now():
        digest._code.cache_clear()
        return script_digest(tmp_path / "make.py", tmp_path)

    before = digest_now()
    edit(tmp_path, old, new)
    assert (digest_now() != before) == seen


seeded = settings(derandomize=True, deadline=None, max_examples=150)
LINE = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=20)


def digest_of(folder, code):
    (folder / "code.py").write_text(code, encoding="utf-8")
    digest._code.cache_clear()
    return code_digest([(folder / "code.py", "k")], folder)


@seeded
@given(
    docstring=LINE,
    comments=st.lists(LINE, min_size=20, max_size=20),
    blank=st.lists(st.integers(0, 2), min_size=20, max_size=20),
)
def test_any_docstrings_comments_and_blank_lines_change_nothing(
    tmp_path_factory, docstring, comments, blank
):
    folder = tmp_path_factory.mktemp("code")
    code = '"""First."""\ndef k(x):\n    """Square."""\n    for y in x:\n        yield y * y\n'
    parsed = ast.parse(code)
    for node in (parsed, parsed.body[1]):
        node.body[0].value.value = docstring
    lines = ast.unparse(parsed).splitlines()
    other = "".join(
        line + f"  # {comment}" + "\n" * (1 + empty)
        for line, comment, empty in zip(lines, comments, blank, strict=False)
    )
    assert digest_of(folder, other) == digest_of(folder, code)


CONSTANTS = st.one_of(
    st.integers(0, 10**6), st.floats(0, 1e6), st.text(max_size=5), st.booleans(), st.none()
)
OPERATORS = st.sampled_from(["+", "-", "*", "/", "//", "%", "<", "==", "and"])
EXPRESSIONS = st.recursive(
    st.one_of(CONSTANTS.map(repr), st.sampled_from(["x", "y", "...", "x.y", "f'{x}'"])),
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, OPERATORS, inner),
        st.builds("f({}, n={})".format, inner, inner),
        st.builds("[{}, {}]".format, inner, inner),
        st.builds("{{{}: {}, **{}}}".format, inner, inner, inner),
        st.builds("(lambda x, y={}: {})".format, inner, inner),
        st.builds("[{} for y in {} if {}]".format, inner, inner, inner),
    ),
    max_leaves=5,
)


@seeded
@given(data=st.data(), first=EXPRESSIONS)
def test_any_other_expression_is_seen(tmp_path_factory, data, first):
    """Against the syntax tree: two codes have one digest if and only if they have one tree."""
    folder = tmp_path_factory.mktemp("code")
    second = data.draw(st.one_of(EXPRESSIONS, st.just(f"({first})"), st.just(f"{first} + 0")))
    same = ast.dump(ast.parse(first)) == ast.dump(ast.parse(second))
    one, other = (digest_of(folder, f"k = {code}\n") for code in (first, second))
    assert (one == other) == same


STUDY = """
# == studies/mine/statistics.py
from microtome.sites import SITES
from . import helpers
def rsa(cosines): return helpers.mean(cosines) if SITES else 0
def other(cosines): return cosines
# == studies/mine/helpers.py
def mean(x): return sum(x) / len(x)
"""


def test_a_study_is_the_same_wherever_it_lies(tmp_path):
    repository = tmp_path / "repository"
    plant(repository, "# == microtome/__init__.py\n# == microtome/sites.py\nSITES = {}\n")
    places = [repository, repository / "work", tmp_path / "one", tmp_path / "studies" / "two"]
    for place in places:
        plant(place, STUDY)

    def digests():
        digest._code.cache_clear()
        files = [place / "studies" / "mine" / "statistics.py" for place in places]
        return {code_digest([(file, "rsa")], repository) for file in files}

    before = digests()
    assert len(before) == 1
    for place in places:
        (place / "studies" / "mine" / "helpers.py").write_text("def mean(x): return max(x)\n")
    after = digests()
    assert len(after) == 1
    edit(repository, "SITES = {}", "SITES = {1: 2}")
    assert len(before | after | digests()) == 3


def test_the_packages_that_a_product_lies_in_count_where_they_do_something(tmp_path):
    plant(tmp_path, CODE)
    root = tmp_path / "library" / "a.py", "g"
    found = [code_digest([root], tmp_path)]
    for content in ("unused = 1", "print(1)"):
        (tmp_path / "library" / "__init__.py").write_text(f"{content}\n", encoding="utf-8")
        digest._code.cache_clear()
        found.append(code_digest([root], tmp_path))
    assert found[0] == found[1] != found[2]


def test_every_clone_agrees(tmp_path):
    for clone in ("one", "other"):
        plant(tmp_path / clone, CODE)
    digests = {script_digest(tmp_path / c / "make.py", tmp_path / c) for c in ("one", "other")}
    assert len(digests) == 1


def test_a_product_of_several_functions_depends_on_each(tmp_path):
    plant(tmp_path, CODE)
    f, k = (tmp_path / "library" / "a.py", "f"), (tmp_path / "library" / "late.py", "k")
    g = (tmp_path / "library" / "a.py", "g")
    found = [code_digest(roots, tmp_path) for roots in ([f], [f, g], [g, f], [f, k], [g, k])]
    assert found[1] == found[2]
    assert len(set(found)) == 4


PACKAGES = """
# == products.py
import numpy as np
import scipy.stats as stats
from sklearn.manifold import TSNE
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import xarray as xr
def plain(x): return x
def arrays(x): return np.mean(x)
def tests(x): return stats.ttest_ind(x, x)
def embedded(x): return TSNE(2)
def annotated(x: "xr.Dataset"): return x
def late(x):
    from transformers import AutoTokenizer
    return AutoTokenizer
def checked(x):
    if not x:
        raise ValueError(np.mean(x))
    return x
"""


@pytest.mark.parametrize(
    ("package", "stale"),
    [
        ("numpy", "arrays tests embedded annotated"),
        ("scipy", "tests embedded"),
        ("sklearn", "embedded"),
        ("xarray", "annotated"),
        ("transformers", "late"),
        ("tokenizers", "late"),
        ("os", ""),
    ],
)
def test_versions_count_of_packages_that_are_used(tmp_path, monkeypatch, package, stale):
    plant(tmp_path, PACKAGES)
    before = products(tmp_path)
    monkeypatch.setattr(digest, "_version", lambda name: "99" if name == package else "1")
    other = products(tmp_path)
    monkeypatch.setattr(digest, "_version", lambda name: "1")
    one = products(tmp_path)
    assert {name for name in one if one[name] != other[name]} == set(stale.split())
    assert before["plain"] == one["plain"]
    monkeypatch.setattr(digest, "_INSTALLED_AS", {})
    assert before["arrays"] != one["arrays"]


def test_another_function_of_a_package_is_another_code(tmp_path):
    plant(tmp_path, PACKAGES)
    before = products(tmp_path)
    edit(tmp_path, "scipy.stats as stats", "scipy.special as stats")
    after = products(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {"tests"}


def test_the_format_of_files_is_part_of_every_product(tmp_path, monkeypatch):
    plant(tmp_path, PACKAGES)
    before = products(tmp_path)
    monkeypatch.setattr(digest.store, "FORMAT", digest.store.FORMAT + 1)
    after = products(tmp_path)
    assert not set(before.values()) & set(after.values())


@pytest.mark.parametrize("content", [b"def f(:\n", b"x = 1\0\n", b"x = '\xff'\n"])
def test_a_file_that_is_not_python_is_named(tmp_path, content):
    (tmp_path / "a.py").write_text("import b\ndef f(): return b.g()\n")
    (tmp_path / "b.py").write_bytes(content)
    digest._code.cache_clear()
    with pytest.raises(MicrotomeError, match=r"b\.py, line 1: .*; correct it"):
        code_digest([(tmp_path / "a.py", "f")], tmp_path)


def test_what_is_imported_from_elsewhere(tmp_path):
    plant(tmp_path, PACKAGES + "from library import a\n" + CODE)
    found = imported(tmp_path / "products.py", tmp_path)
    assert set(found) == {
        *[("numpy",), ("scipy", "stats"), ("sklearn", "manifold"), ("sklearn", "manifold", "TSNE")],
        *[("typing",), ("typing", "TYPE_CHECKING"), ("os",)],
        *[("transformers",), ("transformers", "AutoTokenizer")],
    }


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A copy of the library, its functions as (file, name), and their digests."""
    folder = tmp_path_factory.mktemp("library")
    shutil.copytree(ROOT / "microtome", folder / "microtome")
    roots = [
        (file, node.name)
        for package in ("model", "texts", "sweep", "statistics", "figures")
        for file in sorted((folder / "microtome" / package).glob("*.py"))
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    ]
    return folder, roots, library_digests(folder, roots)


def library_digests(folder, roots):
    digest._code.cache_clear()
    return {root: code_digest([root], folder) for root in roots}


def stale_in_library(library, file, name):
    """The functions of the library whose digests change when one of its functions does."""
    folder, roots, before = library
    text = file.read_text(encoding="utf-8")
    node = next(n for n in ast.parse(text).body if getattr(n, "name", None) == name)
    first = node.body[min(1, len(node.body) - 1)]  # below the docstring
    lines = text.splitlines(keepends=True)
    lines.insert(first.lineno - 1, f"{' ' * first.col_offset}print()\n")
    file.write_text("".join(lines), encoding="utf-8")
    after = library_digests(folder, roots)
    file.write_text(text, encoding="utf-8")
    return {root for root in roots if after[root] != before[root]}


def test_two_functions_of_one_file_of_the_library_are_two_codes(library):
    statistics = library[0] / "microtome" / "statistics"
    fisher_z = statistics / "similarity.py", "fisher_z"
    cosines = statistics / "similarity.py", "cosine_similarities"
    selectivity = statistics / "selectivity.py", "selectivity"
    stale = stale_in_library(library, *fisher_z)
    assert {fisher_z, selectivity} <= stale
    assert cosines not in stale
    stale = stale_in_library(library, *cosines)
    assert cosines in stale
    assert not {fisher_z, selectivity} & stale


def mentions(folder):
    """Independent of the digest: which names the text of each definition has, by its name."""
    found = {}
    for file in (folder / "microtome").rglob("*.py"):
        for part in re.split(r"\n(?=[@\w\"])", file.read_text(encoding="utf-8")):
            words = set(re.findall(r"\w+", part))
            for name in re.findall(r"^(?:def |class )?(\w+)", part, re.MULTILINE):
                found.setdefault(name, set()).update(words)
    return found


def test_only_what_mentions_a_function_of_the_library_depends_on_it(library):
    folder, roots, _ = library
    words = mentions(folder)
    for file, name in roots[:: len(roots) // 12]:
        users, last = {name}, set()
        while users != last:
            last = users
            users = users | {user for user in words if words[user] & users}
        stale = stale_in_library(library, file, name)
        assert (file, name) in stale
        assert {user for _, user in stale} <= users
        callers = [n for f, n in roots if f == file and re.search(rf"\b{name}\(", source(f, n))]
        assert {(file, caller) for caller in callers} <= stale


def source(file, name):
    """The code of a function without its docstring and its errors."""
    text = file.read_text(encoding="utf-8")
    node = next(n for n in ast.parse(text).body if getattr(n, "name", None) == name)
    return re.sub(r"raise .*", "", ast.unparse(ast.Module(node.body[1:], [])))
