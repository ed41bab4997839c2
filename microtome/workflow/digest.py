"""A digest of the code that a product depends on, for Snakemake to compare.

A product is made by functions. Each is followed through the names that it uses: to functions,
classes and constants of this repository, and to installed packages, whose versions count. A
module's other statements count wherever the module is imported, because they run then. Code that
cannot be followed counts whole: a module that is passed on as a value, that is asked for an
attribute it does not define, or that is imported by a name made at run time.

Docstrings, comments, layout, the order of functions and the wording of errors do not count. Nor
does plumbing: the code that writes files and runs jobs.

Three things are not noticed: a docstring that a result is made of, the order of imports, and a
function that changes a constant in place while another constant is made of it.
"""

import hashlib
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from microtome import store
from microtome.workflow.definitions import Module, Statement
from microtome.workflow.dependencies import Code, Target
from microtome.workflow.names import Chain, Import

#: Modules that no product depends on. They carry results and do not change them. When they write
#: something else than before, raise `microtome.store.FORMAT`.
PLUMBING = (
    "microtome/errors.py",
    "microtome/interventions/fit.py",
    "microtome/options.py",
    "microtome/store/",
    "microtome/workflow/",
)
#: The module among them that products do depend on: it makes their inputs.
NOT_PLUMBING = ("microtome/workflow/inputs.py",)

#: Packages that are imported under another name than they are installed under.
_INSTALLED_AS = {"sklearn": "scikit-learn", "yaml": "PyYAML", "PIL": "pillow"}
#: Packages whose results depend on other packages, which our code may not name.
_RELIES_ON = {
    "matplotlib": ("numpy",),
    "pandas": ("numpy",),
    "scipy": ("numpy",),
    "sklearn": ("numpy", "scipy"),
    "statsmodels": ("numpy", "pandas", "scipy"),
    "transformers": ("gguf", "tokenizers", "torch"),
    "xarray": ("numpy", "pandas"),
}


def code_digest(roots: Sequence[tuple[Path, str]], root: Path) -> str:
    """Digest functions with all that they depend on.

    Args:
        roots: Python files, and in each the name of a function, a class or a constant.
        root: the folder that holds the local packages (the repository).

    Returns:
        Sixteen hex digits. A study of a user's own, outside of the repository, has the same ones
        wherever it lies.

    Raises:
        MicrotomeError: a file that is not Python.
    """
    code = _code(root.absolute())
    named = _named(code, roots)
    targets = [target for module, name in named for target in code.attribute(module, (name,))]
    return _digest(code, targets, [f"{module.label}:{name}" for module, name in named])


def script_digest(script: Path, root: Path, plumbing: Sequence[str] = ()) -> str:
    """Digest a script, which counts whole, with all that it depends on.

    Args:
        script: a Python file.
        root: the folder that holds the local packages (the repository).
        plumbing: files of the repository that are plumbing to this script, beside `PLUMBING`.

    Returns:
        Sixteen hex digits.

    Raises:
        MicrotomeError: a file that is not Python.
    """
    code = _code(root.absolute(), tuple(plumbing))
    module = code.module(script.absolute())
    return _digest(code, [module, *module.statements], [module.label])


def imported(
    script: Path, root: Path, roots: Sequence[tuple[Path, str]] | None = None
) -> list[Chain]:
    """Dotted names that a script, and all it imports from below a folder, import from elsewhere.

    `from a import b` may mean the module `a.b`, so it gives `a` and `a.b`.

    Args:
        script: a Python file.
        root: the folder that holds the local packages (the repository).
        roots: functions that the script calls, as in `code_digest`. Imports inside of functions
            then count only where these reach them; without, all of them count.

    Raises:
        MicrotomeError: a file that is not Python.
    """
    code = _code(root.absolute())

    def runs(module: Module) -> list[tuple[Import, Path]]:
        inner = [s.reading.runs for s in module.statements] if roots is None else []
        return [(value, module.base) for values in (module.runs, *inner) for value in values]

    called = _named(code, roots or ())
    targets = [target for module, name in called for target in code.attribute(module, (name,))]
    reached = [target for target in code.closure(targets) if isinstance(target, Statement)]
    waiting = [(value, s.module.base) for s in reached for value in s.reading.runs]
    first = [code.module(script.absolute()), *(module for module, _ in called)]
    waiting += [found for module in first for found in runs(module)]
    seen = set(first)
    names: dict[Chain, None] = {}
    while waiting:
        value, base = waiting.pop()
        files = code.files(value, base)
        if value.module and not files:
            names |= dict.fromkeys((value.module, value.module + value.names))
        for module in map(code.module, files):
            if module not in seen:
                seen.add(module)
                waiting += runs(module)
    return list(names)


def _named(code: Code, roots: Sequence[tuple[Path, str]]) -> list[tuple[Module, str]]:
    return [(code.module(file.absolute()), name) for file, name in roots]


def _digest(code: Code, targets: Iterable[Target], names: list[str]) -> str:
    """Digest targets with all that they depend on, under the names of what was asked for."""
    reached = code.closure(targets)
    statements = [code.digested(target) for target in reached if isinstance(target, Statement)]
    outside = {target.partition(".")[0] for target in reached if isinstance(target, str)}
    packages = outside | {p for package in outside for p in _RELIES_ON.get(package, ())}
    digest = hashlib.sha256(f"{store.FORMAT} {sorted(names)}\n".encode())
    for statement in sorted(statements):
        digest.update(statement.digest)
    for package in sorted(packages - sys.stdlib_module_names):
        if code.file((package,), code.root) is None:
            digest.update(f"{package} {_version(package)}\n".encode())
    return digest.hexdigest()[:16]


@cache
def _code(root: Path, more: tuple[str, ...] = ()) -> Code:
    """The repository's code, read once per process and plumbing beside `PLUMBING`."""

    def is_plumbing(place: str) -> bool:
        return place.startswith(PLUMBING + more) and place not in NOT_PLUMBING

    return Code(root, is_plumbing)


@cache
def _version(package: str) -> str:
    """The version of a package that is installed, by the name it is imported under."""
    try:
        return version(_INSTALLED_AS.get(package, package))
    except PackageNotFoundError:
        return "not installed"
