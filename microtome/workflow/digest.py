"""A digest of the code that a product depends on, for Snakemake to compare.

A product depends on functions. Each is followed through every name that it uses, to functions,
classes and constants of this repository and to the packages it is installed with, of which the
version counts. Besides definitions, a module's other statements count wherever the module is
imported, as they run then. What cannot be told from the code counts whole: all of a module that is
passed on as a value, that is read by an attribute it does not define, or that is imported by a
name made up at run time.

Docstrings, comments, layout, the order of functions and the wording of errors do not count, nor
does the plumbing: how files are written and jobs are run. Not seen are a docstring that a result is
made of, and a constant that a function changes in place while it makes another constant of it.
"""

import hashlib
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from microtome import store
from microtome.workflow.definitions import Statement
from microtome.workflow.dependencies import Code, Target
from microtome.workflow.names import Chain

#: Modules that no product depends on: they move results, but decide none. Where what they write
#: changes, `microtome.store.FORMAT` says so.
PLUMBING = (
    "microtome/errors.py",
    "microtome/options.py",
    "microtome/store/",
    "microtome/texts/requirements.py",
    "microtome/workflow/",
)
#: What lies among them and decides results: what the inputs of products are.
NOT_PLUMBING = ("microtome/workflow/inputs.py",)

#: Packages that are imported under another name than they are installed under.
_INSTALLED_AS = {"sklearn": "scikit-learn", "yaml": "PyYAML", "PIL": "pillow"}
#: Packages that decide what others return, though our code may not name them.
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
    named = [(code.module(file.absolute()), name) for file, name in roots]
    targets = [target for module, name in named for target in code.attribute(module, (name,))]
    return _digest(code, targets, [f"{module.label}:{name}" for module, name in named])


def script_digest(script: Path, root: Path) -> str:
    """Digest a script, which counts whole, with all that it depends on.

    Args:
        script: a Python file.
        root: the folder that holds the local packages (the repository).

    Returns:
        Sixteen hex digits.

    Raises:
        MicrotomeError: a file that is not Python.
    """
    code = _code(root.absolute())
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
    names: dict[Chain, None] = {}
    modules = [
        code.module(file.absolute()) for file in (script, *(file for file, _ in roots or ()))
    ]
    waiting = [(value, module.base) for module in modules for value in module.runs]
    if roots is not None:
        called = [t for file, name in roots for t in code.attribute(code.module(file), (name,))]
        reached = [t for t in code.closure(called) if isinstance(t, Statement)]
        waiting += [(value, s.module.base) for s in reached for value in s.reading.runs]
    seen = set(modules)
    while waiting:
        value, base = waiting.pop()
        files = code.files(value, base)
        if value.module and not files:
            names |= dict.fromkeys((value.module, value.module + value.names))
        for module in map(code.module, files):
            if module not in seen:
                seen.add(module)
                inner = [] if roots is not None else [s.reading.runs for s in module.statements]
                waiting += [(v, module.base) for values in (module.runs, *inner) for v in values]
    return list(names)


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


def _is_plumbing(place: str) -> bool:
    return place.startswith(PLUMBING) and place not in NOT_PLUMBING


@cache
def _code(root: Path) -> Code:
    """The repository's code, read once per process."""
    return Code(root, _is_plumbing)


@cache
def _version(package: str) -> str:
    """The version of a package that is installed, by the name it is imported under."""
    try:
        return version(_INSTALLED_AS.get(package, package))
    except PackageNotFoundError:
        return "not installed"
