"""What a Python file defines, statement by statement."""

import ast
from dataclasses import dataclass
from pathlib import Path

from microtome.workflow.names import Binding, Chain, Import, bindings
from microtome.workflow.reading import Reading, is_text, last_name, read


@dataclass(eq=False)
class Statement:
    """A statement at the top level of a module, other than an import or a docstring.

    Attributes:
        module: the module.
        place: its number within the module.
        reading: what it says.
        names: the names that it defines.
        is_function: whether it defines a function.
        is_code: whether it defines a function or a class.
        always_runs: whether it counts wherever its module is imported: all but definitions and
            constants. An assignment to an attribute or an item changes what another one defines.
        runs_nothing: whether it is a function whose definition runs no code.
    """

    module: "Module"
    place: int
    reading: Reading
    names: frozenset[str]
    is_function: bool
    is_code: bool
    always_runs: bool
    runs_nothing: bool

    @property
    def is_movable(self) -> bool:
        """Whether it may stand anywhere in the module: a function that runs nothing yet."""
        return self.runs_nothing and all(
            len(self.module.definitions[name]) == 1 for name in self.names
        )


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

    def __init__(self, name: Chain, base: Path, file: Path | None, source: bytes = b"") -> None:
        """Read a file.

        Args:
            name: the parts of the module's absolute name.
            base: the folder that its name begins at.
            file: the file, or None for a package that has none.
            source: what is in it.

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
        for node in ast.parse(source).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                found = bindings(node, self.package)
                self._bind(found)
                self.runs += [binding.runs for binding in found]
            elif imports := _for_type_checkers(node):
                for each in imports:
                    self._bind(bindings(each, self.package))
            elif not is_text(node):
                self.statements.append(self._statement(node))
        for statement in self.statements:
            for bound in statement.names:
                self.definitions.setdefault(bound, []).append(statement)
            if not statement.is_code:
                self._bind(statement.reading.imports)
                self.runs += statement.reading.runs
        for statement in self.statements:
            for bound in statement.reading.rebound - statement.names:
                self.definitions.setdefault(bound, []).append(statement)

    def _statement(self, node: ast.stmt) -> Statement:
        reading = read(node, self.package)
        is_function = is_code = always_runs = False
        names = frozenset(reading.bound)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            is_function, is_code = not isinstance(node, ast.ClassDef), True
            names = frozenset({node.name})
        else:
            always_runs = not _is_constant(node)
        return Statement(
            self,
            len(self.statements),
            reading,
            names,
            is_function,
            is_code,
            always_runs,
            _runs_nothing(node),
        )

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


def _runs_nothing(node: ast.stmt) -> bool:
    """Whether a statement is a function without decorators and with constant defaults alone."""
    match node:
        case (
            ast.FunctionDef(args=args, decorator_list=[])
            | ast.AsyncFunctionDef(args=args, decorator_list=[])
        ):
            defaults = filter(None, (*args.defaults, *args.kw_defaults))
            return all(isinstance(default, ast.Constant) for default in defaults)
    return False


def _is_constant(node: ast.stmt) -> bool:
    """Whether a statement is an assignment to names alone."""
    match node:
        case ast.Assign(targets=targets):
            return all(map(_is_plain, targets))
        case ast.AnnAssign(target=target) | ast.AugAssign(target=target):
            return _is_plain(target)
    return False


def _is_plain(target: ast.expr) -> bool:
    """Whether the target of an assignment is made of names alone."""
    if isinstance(target, ast.Tuple | ast.List):
        return all(map(_is_plain, target.elts))
    return isinstance(target.value if isinstance(target, ast.Starred) else target, ast.Name)
