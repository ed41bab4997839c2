"""What code depends on: statements of modules, followed through the names that they use."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from microtome.errors import MicrotomeError
from microtome.workflow.definitions import Module, Statement
from microtome.workflow.kept import read_module
from microtome.workflow.names import Chain, Import
from microtome.workflow.reading import Change

#: Functions and tables that give modules by a name, which may be made at run time.
_IMPORTERS = (
    "__import__",
    "importlib.import_module",
    "importlib.util",
    "pkgutil",
    "runpy",
    "sys.modules",
)
#: Built-in functions that can read every name of the module they are called in.
_OPENERS = ("eval", "exec", "globals", "vars")


@dataclass(frozen=True)
class Whole:
    """Everything that a module defines and imports, and all modules below it."""

    module: Module


#: What code depends on: a statement; a module, for what runs when it is imported; a whole module;
#: or the dotted name of something that is not followed, in another package or in the plumbing.
Target = Statement | Module | Whole | str
#: Attributes of modules that have been looked up, so that imports in a circle come to an end.
Seen = frozenset[tuple[Module, Chain]]


class Digested(NamedTuple):
    """The digest of a statement, after what it is sorted by.

    Attributes:
        order: the module, then functions by name, then the other statements by place.
        digest: the digest of the statement's code, and of what each of its names refers to.
    """

    order: tuple[str, bool, str, int]
    digest: bytes


class Code:
    """The modules of a repository, each read once, and what in them depends on what."""

    def __init__(self, root: Path, is_plumbing: Callable[[str], bool]) -> None:
        """Read nothing yet.

        Args:
            root: the folder that the names of its modules begin at.
            is_plumbing: whether a file, or a folder with a slash at its end, is not to be
                followed; takes its place below `root`.
        """
        self.root = root
        self._named_plumbing = is_plumbing
        # These are asked the same many times.
        for name in ("module", "file", "digested", "_is_plumbing", "_depends_on", "_links"):
            setattr(self, name, cache(getattr(self, name)))

    def closure(self, targets: Iterable[Target]) -> set[Target]:
        """Targets with all that they depend on."""
        seen = set(targets)
        waiting = list(seen)
        while waiting:
            for target in self._depends_on(waiting.pop()):
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)
        return seen

    def attribute(self, module: Module, path: Chain, seen: Seen = frozenset()) -> set[Target]:
        """What an attribute of a module is, or an attribute of that.

        Args:
            module: the module.
            path: the names of the attributes; none for the module itself.
            seen: what led here, for imports in a circle.
        """
        if (module, path) in seen:
            return set()
        return (self._lookup(module, path, seen) if path else set()) or {Whole(module)}

    def digested(self, statement: Statement) -> Digested:
        """The digest of a statement, without what it depends on."""
        links = self._links(statement)
        named = sorted((name, sorted(map(_label, found))) for name, found in links.items())
        content = f"{_label(statement)}\n{statement.reading.code}\n{named}"
        movable = statement.is_movable
        name = _label(statement) if movable else ""
        return Digested(
            (statement.module.label, not movable, name, statement.place),
            hashlib.sha256(content.encode()).digest(),
        )

    # Modules and their files.

    def module(self, file: Path) -> Module:
        """Read a file, or a folder that is a package without an `__init__.py`.

        Raises:
            MicrotomeError: a file that is not Python.
        """
        base = self._base(file)
        name = file.relative_to(base).with_suffix("").parts
        name = name[:-1] if name[-1:] == ("__init__",) else name
        try:
            return Module(name, base, None) if file.is_dir() else read_module(name, base, file)
        except (SyntaxError, ValueError) as error:  # the latter of a NUL
            line = getattr(error, "lineno", None) or 1
            message = getattr(error, "msg", None) or error
            raise MicrotomeError(f"{file}, line {line}: {message}; correct it") from None

    def _base(self, file: Path) -> Path:
        """The folder that a module's name begins at; of a user's studies, that of `studies`."""
        inside = file.is_relative_to(self.root)
        parts = file.relative_to(self.root).parts if inside else file.parts
        if "studies" in parts[:-1]:
            return file.parents[parts[-2::-1].index("studies") + 1]
        return self.root if inside else file.parent

    def file(self, name: Chain, base: Path) -> Path | None:
        """The file, or the folder, of a module of ours; None for any other."""
        if name[:2] == ("microtome", "studies"):  # which finds them in `studies`
            name = name[1:]
        found = (_module_file(folder, name) for folder in (base, self.root))
        return next(filter(None, found), None)

    def files(self, value: Import, base: Path) -> list[Path]:
        """The modules of ours that are run when something is imported, its packages included."""
        if self.file(value.module[:1], base) is None:
            return []
        names = [value.module[:length] for length in range(1, len(value.module) + 1)]
        names += [value.module + value.names] if value.names else []
        return [file for name in names if (file := self.file(name, base))]

    def _is_plumbing(self, file: Path) -> bool:
        inside = file.is_relative_to(self.root)
        return inside and self._named_plumbing(
            file.relative_to(self.root).as_posix() + ("/" if file.is_dir() else "")
        )

    # What a name is.

    def _lookup(self, module: Module, chain: Chain, seen: Seen = frozenset()) -> set[Target]:
        """What a name in a module is; nothing for one that the module does not know."""
        name, rest = chain[0], chain[1:]
        seen |= {(module, chain)}
        found: set[Target] = set(module.definitions.get(name, ()))
        for value in module.imports.get(name, ()):
            found |= self._imported(value, rest, module.base, seen)
        if module.is_package:
            found |= self._within((*module.name, name), rest, module.base, seen) or set()
        for star in module.stars if not found else ():
            file = self.file(star.module, module.base)
            if file is None or self._is_plumbing(file):
                found.add(".".join((*star.module, *chain)))
            elif (self.module(file), chain) not in seen:
                found |= self._lookup(self.module(file), chain, seen)
        return found

    def _imported(
        self, value: Import, rest: Chain, base: Path, seen: Seen = frozenset()
    ) -> set[Target]:
        """What an attribute is of something that was imported."""
        path = value.names + rest
        found = self._within(value.module, path, base, seen)
        return {".".join(value.module + path)} if found is None else found

    def _within(
        self, name: Chain, path: Chain, base: Path, seen: Seen = frozenset()
    ) -> set[Target] | None:
        """What an attribute is of a module of ours; None for any other module."""
        file = self.file(name, base)
        if file is None:
            return None
        if self._is_plumbing(file):  # perhaps with a module within it that is none
            inner = self._within(name + path[:1], path[1:], base, seen) if path else None
            return inner or {".".join(name + path)}
        return self.attribute(self.module(file), path, seen)

    def _links(self, statement: Statement) -> dict[str, set[Target]]:
        """What each name is that a statement uses."""
        module, reading = statement.module, statement.reading
        links = {".".join(chain): self._lookup(module, chain) for chain in reading.uses}
        for value, rest in reading.imported:
            name = ".".join((*value.module, *value.names, *rest))
            links[name] = self._imported(value, rest, module.base)
        return links

    # What depends on what.

    def _depends_on(self, target: Target) -> tuple[Target, ...]:
        """What a target depends on directly."""
        match target:
            case Statement():
                return tuple(self._of_statement(target))
            case Module():
                return tuple(self._of_module(target))
            case Whole(module):
                return tuple(self._of_whole(module))
        return ()

    def _of_statement(self, statement: Statement) -> Iterator[Target]:
        module, reading = statement.module, statement.reading
        yield module
        for value in reading.runs:
            yield from self._loaded(value, module.base)
        outside = []
        for name, found in self._links(statement).items():
            yield from found
            outside += [target for target in found if isinstance(target, str)]
            if not found:
                outside.append(name)  # Python's own
        if any(name in _OPENERS for name in outside):
            yield Whole(module)
        if any(f"{name}.".startswith(f"{i}.") for name in outside for i in _IMPORTERS):
            # Every module that a text names, also only its beginning, and the package itself.
            for text in (module.name[0], *reading.texts):
                parts = tuple(text.strip(".").split("."))
                if all(map(str.isidentifier, parts)):
                    yield from self._within(parts, (), module.base) or ()

    def _of_module(self, module: Module) -> Iterator[Target]:
        """What is run when a module is imported."""
        for value in (Import(module.name), *module.runs):
            yield from self._loaded(value, module.base)
        for statement in module.statements:
            if statement.always_runs or self._leaves_traces(statement):
                yield statement

    def _of_whole(self, module: Module) -> Iterator[Target]:
        yield module
        yield from module.statements
        for value in (*module.stars, *(v for values in module.imports.values() for v in values)):
            yield from self._imported(value, (), module.base)
        if module.is_package:
            for file in sorted(module.base.joinpath(*module.name).rglob("*.py")):
                if not self._is_plumbing(file):
                    yield Whole(self.module(file))

    def _loaded(self, value: Import, base: Path) -> Iterator[Module]:
        for file in self.files(value, base):
            if not self._is_plumbing(file):
                yield self.module(file)

    def _leaves_traces(self, statement: Statement) -> bool:
        """Whether a definition may change another one when its module is imported.

        A decorator may add the function to a table, and so may a base class: all code that runs
        during the import is looked at.
        """
        if statement.is_movable:
            return False
        reading = statement.reading
        if any(
            change.immediate and self._has_effect(statement, change) for change in reading.changes
        ):
            return True
        waiting = [self._lookup(statement.module, chain) for chain in reading.immediate]
        running = {statement}
        while waiting:
            for target in waiting.pop() - running:
                if isinstance(target, Statement) and target.is_code:
                    changes = target.reading.changes
                    if target.reading.registers or any(
                        self._has_effect(target, c) for c in changes
                    ):
                        return True
                    running.add(target)
                    waiting += self._links(target).values()
        return False

    def _has_effect(self, statement: Statement, change: Change) -> bool:
        """Whether what a statement may change is a definition that can be changed."""
        return any(
            not change.is_called and (target.is_function or target.reading.holds_state)
            if target.is_code
            else target.reading.holds_state
            for target in self._lookup(statement.module, change.chain)
            if isinstance(target, Statement)
        )


def _module_file(folder: Path, name: Chain) -> Path | None:
    """The file of a module below a folder, or the folder of a package without an `__init__.py`."""
    place = folder.joinpath(*name)
    if (place / "__init__.py").is_file():
        return place / "__init__.py"
    if name and (file := place.with_name(f"{name[-1]}.py")).is_file():
        return file
    return place if place.is_dir() and next(place.rglob("*.py"), None) else None


def _label(target: Target) -> str:
    """What a target is called in a digest."""
    match target:
        case Statement():
            return f"{target.module.label}:{' '.join(sorted(target.names))}"
        case Whole(module):
            return f"{module.label}:*"
    return str(target)
