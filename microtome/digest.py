"""A digest of the code that a product depends on, for Snakemake to compare.

It covers a script and every local module it imports, transitively, wherever the import stands.
Syntax trees are compared, without docstrings, comments and layout: only what can change a
result changes the digest.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path


def code_digest(script: Path, root: Path) -> str:
    """Digest a script with all it imports from below a folder.

    Args:
        script: a Python file.
        root: the folder that holds the local packages (the repository).

    Returns:
        Sixteen hex digits.
    """
    seen: dict[Path, str] = {}
    waiting = [script.resolve()]
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen[file], imports = _read(file, root.resolve())
            waiting.extend(imports)
    digest = hashlib.sha256()
    for file in sorted(seen):
        # Named by its place in the repository, so that every clone agrees.
        name = file.relative_to(root.resolve()).as_posix()
        digest.update(f"{name}\n{seen[file]}\n".encode())
    return digest.hexdigest()[:16]


@cache
def _read(file: Path, root: Path) -> tuple[str, tuple[Path, ...]]:
    """A file's code without docstrings, comments and layout, and the local files it imports."""
    tree = ast.parse(file.read_text(encoding="utf-8"), file.name)
    package = file.relative_to(root).parts[:-1]
    imports = tuple(
        path for name in _imported(tree, package) for path in _files(root, name) if path != file
    )
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in node.body if not _is_text(statement)] or [
                ast.Pass()
            ]
    return ast.unparse(tree), imports


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _imported(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Dotted names that may be modules; `from a import b` may mean the module a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = (*above, *(node.module.split(".") if node.module else ()))
            yield base
            for alias in node.names:
                yield (*base, alias.name)


def _files(root: Path, name: tuple[str, ...]) -> Iterator[Path]:
    """The files that importing a dotted name runs: each package's `__init__`, then the module."""
    for length in range(1, len(name) + 1):
        path = root.joinpath(*name[:length])
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file():
                yield file
