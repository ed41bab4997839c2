"""A digest of the code that a product depends on, for Snakemake to compare.

It covers a script and every local module it imports, transitively, wherever the import stands,
and the installed version of every other package that these import. Syntax trees are compared,
without docstrings, comments and layout: only what can change a result changes the digest.
"""

import ast
import hashlib
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

#: Packages that are imported under another name than they are installed under.
_INSTALLED_AS = {"sklearn": "scikit-learn", "yaml": "PyYAML", "PIL": "pillow"}


def code_digest(script: Path, root: Path) -> str:
    """Digest a script with all it imports from below a folder.

    Args:
        script: a Python file.
        root: the folder that holds the local packages (the repository).

    Returns:
        Sixteen hex digits.
    """
    root = root.resolve()
    seen, foreign = _closure(script.resolve(), root)
    packages = {name[0] for name in foreign}
    digest = hashlib.sha256()
    for file in sorted(seen):
        # Named by its place in the repository, so that every clone agrees.
        digest.update(f"{file.relative_to(root).as_posix()}\n{seen[file]}\n".encode())
    for package in sorted(packages):
        digest.update(f"{package} {_version(package)}\n".encode())
    return digest.hexdigest()[:16]


def imported(script: Path, root: Path) -> list[tuple[str, ...]]:
    """Dotted names that a script, and what it imports from below a folder, import from elsewhere.

    Args:
        script: a Python file.
        root: the folder that holds the local packages (the repository).
    """
    return list(_closure(script.resolve(), root.resolve())[1])


def _closure(script: Path, root: Path) -> tuple[dict[Path, str], dict[tuple[str, ...], None]]:
    """The code of a script and of each local file it imports, and the names from elsewhere."""
    seen: dict[Path, str] = {}
    foreign: dict[tuple[str, ...], None] = {}
    waiting = [script]
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen[file], imports = _read(file, root)
            for name in imports:
                files = _files(root, name)
                waiting.extend(files)
                if name and not files:
                    foreign[name] = None
    return seen, foreign


@cache
def _read(file: Path, root: Path) -> tuple[str, tuple[tuple[str, ...], ...]]:
    """A file's code without docstrings, comments and layout, and the dotted names it imports."""
    tree = ast.parse(file.read_text(encoding="utf-8"), file.name)
    package = file.relative_to(root).parts[:-1] if file.is_relative_to(root) else ()
    imports = tuple(_imported(tree, package))
    for node in _statements(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in node.body if not _is_text(statement)] or [
                ast.Pass()
            ]
    return ast.unparse(tree), imports


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """A tree's statements, not what is inside them: a tenth of the nodes `ast.walk` visits."""
    yield node
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        inner = getattr(node, field, ())
        for statement in inner if isinstance(inner, list) else ():
            yield from _statements(statement)


@cache
def _version(package: str) -> str:
    """The version of a package that is installed, by the name it is imported under."""
    if package in sys.stdlib_module_names:
        return "standard library"
    try:
        return version(_INSTALLED_AS.get(package, package))
    except PackageNotFoundError:
        return "not installed"


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _imported(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Dotted names that may be modules; `from a import b` may mean the module a.b."""
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = (*above, *(node.module.split(".") if node.module else ()))
            yield base
            for alias in node.names:
                yield (*base, alias.name)


@cache
def _files(root: Path, name: tuple[str, ...]) -> list[Path]:
    """The files that importing a dotted name runs: each package's `__init__`, then the module."""
    paths = [root.joinpath(*name[:length]) for length in range(1, len(name) + 1)]
    candidates = [
        file for path in paths for file in (path / "__init__.py", path.with_suffix(".py"))
    ]
    return [file for file in candidates if file.is_file()]
