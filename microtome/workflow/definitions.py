"""What a Python file defines, statement by statement."""

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from microtome.workflow.names import Binding, Chain, Import, bindings
from microtome.workflow.reading import Reading, is_text, last_name, read


@dataclass(eq=False)
class Statement:
    """A statement at the top level of a module, other than an import or a docstring.

    Attributes:
        module: the module.
        node: its syntax tree.
        place: its number within the module.
    """

    module: "Module"
    node: ast.stmt
    place: int

    @cached_property
    def reading(self) -> Reading:
        """What the statement says; read when it is first asked for."""
        return read(self.node, self.module.package)

    @property
    def is_function(self) -> bool:
        """Whether it defines a function."""
        return isinstance(self.node, ast.FunctionDef | ast.AsyncFunctionDef)

    @property
    def is_code(self) -> bool:
        """Whether it defines a function or a class."""
        return self.is_function or isinstance(self.node, ast.ClassDef)

    @cached_property
    def names(self) -> frozenset[str]:
        """The names that it defines."""
        if isinstance(self.node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return frozenset({self.node.name})
        return frozenset(self.reading.bound)

    @property
    def always_runs(self) -> bool:
        """Whether it counts wherever its module is imported: all but definitions and constants.

        An assignment to an attribute or an item changes what another statement defines.
        """
        match self.node:
            case ast.Assign(targets=targets):
                return not all(map(_is_plain, targets))
            case ast.AnnAssign(target=target) | ast.AugAssign(target=target):
                return not _is_plain(target)
        return not self.is_code

    @property
    def is_movable(self) -> bool:
        """Whether it may stand anywhere in the module: a function that runs nothing yet."""
        match self.node:
            case ast.FunctionDef(name, args, decorator_list=[]) | ast.AsyncFunctionDef(
                name, args, decorator_list=[]
            ):
                defaults = [default for default in (*args.defaults, *args.kw_defaults) if default]
                constant = all(isinstance(default, ast.Constant) for default in defaults)
                return constant and len(self.module.definitions[name]) == 1
        return False


class Module:
    """A Python file, or a folder that is a package without an `__init__.py`.

    Attributes:
        name: the parts of its absolute name.
        base: the folder that its name begins at.
        label: its place below that folder.
        is_package: whether other modules may lie within it.
        package: the parts of the name of its package, which may be itself.
        statements: the statements at its top level, in order.
        definitions: the statements that define each name, or rebind it as a global one.
        imports: what each name is bound to by imports at the top level, one or more.
        stars: the modules that it imports all names from.
        runs: what it imports when it is imported.
    """

    def __init__(self, name: Chain, base: Path, file: Path | None) -> None:
        """Read a file.

        Args:
            name: the parts of the module's absolute name.
            base: the folder that its name begins at.
            file: the file, or None for a package that has none.

        Raises:
            SyntaxError: the file is not Python.
            ValueError: it has a NUL.
        """
        self.name, self.base = name, base
        self.label = file.relative_to(base).as_posix() if file else "/".join(name)
        self.is_package = file is None or file.name == "__init__.py"
        self.package = name if self.is_package else name[:-1]
        self.statements: list[Statement] = []
        self.definitions: dict[str, list[Statement]] = {}
        self.imports: dict[str, list[Import]] = {}
        self.stars: list[Import] = []
        self.runs: list[Import] = []
        if file:
            self._read(file)

    def _read(self, file: Path) -> None:
        source = file.read_bytes()
        for node in ast.parse(source).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                found = bindings(node, self.package)
                self._bind(found)
                self.runs += [binding.runs for binding in found]
            elif imports := _for_type_checkers(node):
                for each in imports:
                    self._bind(bindings(each, self.package))
            elif not is_text(node):
                self.statements.append(Statement(self, node, len(self.statements)))
        for statement in self.statements:
            for name in statement.names:
                self.definitions.setdefault(name, []).append(statement)
            if not statement.is_code:
                self._bind(statement.reading.imports)
                self.runs += statement.reading.runs
        if b"global " in source:
            for statement in self.statements:
                for name in statement.reading.rebound - statement.names:
                    self.definitions.setdefault(name, []).append(statement)

    def _bind(self, found: list[Binding]) -> None:
        for name, value, runs in found:
            if name == "*":
                self.stars.append(runs)
            else:
                self.imports.setdefault(name, []).append(value)


def _for_type_checkers(node: ast.stmt) -> list[ast.Import | ast.ImportFrom]:
    """The imports below `if TYPE_CHECKING:`, which never runs, if there is nothing else."""
    if not isinstance(node, ast.If) or last_name(node.test) != "TYPE_CHECKING" or node.orelse:
        return []
    imports = [inner for inner in node.body if isinstance(inner, ast.Import | ast.ImportFrom)]
    return imports if len(imports) == len(node.body) else []


def _is_plain(target: ast.expr) -> bool:
    """Whether the target of an assignment is made of names alone."""
    if isinstance(target, ast.Tuple | ast.List):
        return all(map(_is_plain, target.elts))
    return isinstance(target.value if isinstance(target, ast.Starred) else target, ast.Name)
