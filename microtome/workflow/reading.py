"""What a Python statement says: its code, the names it binds, and the names it uses.

Names follow Python's rules of scope: a parameter or a local variable hides a definition of the same
name. The code of a statement is its syntax tree as text, without docstrings and without the
arguments of an error that is raised. Annotations belong to the code, because dataclasses and the
options of products are made from them.
"""

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from microtome.workflow.names import Binding, Chain, Import, bindings

#: Methods that change nothing.
_READERS = {"copy", "count", "format", "get", "index", "items", "join", "keys", "split", "values"}


class Change(NamedTuple):
    """Something that code may change: it sets an item or an attribute, or calls a method.

    Attributes:
        chain: the name of what may change.
        is_called: whether the code calls it, and not one of its methods.
        immediate: whether the code runs when the module is imported.
    """

    chain: Chain
    is_called: bool
    immediate: bool


@dataclass
class Reading:
    """What one statement at the top level of a module says.

    Attributes:
        code: its syntax tree as text.
        bound: the module's names that it binds.
        rebound: the module's names that functions in it declare `global`.
        uses: the module's names that it reads.
        immediate: the part of `uses` that it reads when the module is imported, without
            annotations. The rest is read when a function is called.
        changes: objects of the module that it may change in place.
        imports: the module's names that it binds by an import.
        imported: names that functions and classes in it import themselves, each with the
            attributes that are read of it.
        runs: everything that it imports.
        texts: its string constants.
        holds_state: whether it defines an object that can be changed in place.
        registers: whether it sets a global name in a function, or has an `__init_subclass__`.
    """

    code: str = ""
    bound: set[str] = field(default_factory=set)
    rebound: set[str] = field(default_factory=set)
    uses: set[Chain] = field(default_factory=set)
    immediate: set[Chain] = field(default_factory=set)
    changes: set[Change] = field(default_factory=set)
    imports: list[Binding] = field(default_factory=list)
    imported: set[tuple[Import, Chain]] = field(default_factory=set)
    runs: list[Import] = field(default_factory=list)
    texts: set[str] = field(default_factory=set)
    holds_state: bool = False
    registers: bool = False


def read(node: ast.stmt, package: Chain) -> Reading:
    """Read a statement at the top level of a module.

    Args:
        node: the statement.
        package: the package its module belongs to.
    """
    return _Reader(package).read(node)


class _Scope:
    """The names that have been seen in a module, a class, a function or a comprehension."""

    def __init__(self, kind: str, parameters: set[str] | None = None) -> None:
        self.kind = kind
        self.bound = parameters or set()
        self.outer: set[str] = set()  # declared nonlocal
        self.module: set[str] = set()  # declared global
        self.imports: list[Binding] = []
        self.uses: set[Chain] = set()


class _Reader(ast.NodeVisitor):
    """Writes a statement's code and notes its names, in one pass over its tree."""

    def __init__(self, package: Chain) -> None:
        self._package = package
        self._found = Reading()
        self._code: list[str] = []
        self._scopes = [_Scope("module")]
        self._later = False  # in the body of a function, which runs when it is called
        self._annotation = False

    def read(self, node: ast.stmt) -> Reading:
        self.visit(node)
        (scope,) = self._scopes
        self._found.code = "".join(self._code)
        self._found.bound = scope.bound
        self._found.imports = scope.imports
        self._found.uses |= scope.uses
        names = {chain[0] for chain in self._found.uses}
        self._found.changes = {c for c in self._found.changes if c.chain[0] in names}
        return self._found

    # Code: each node as its type and its fields.

    def generic_visit(self, node: ast.AST) -> None:
        self._write(node, node._fields)

    def _write(self, node: ast.AST, fields: tuple[str, ...]) -> None:
        write = self._code.append
        write(f"{type(node).__name__}(")
        for name in fields:
            value = getattr(node, name, None)
            if isinstance(value, ast.AST):
                if name != "ctx":  # it follows from where the node stands
                    write(f"{name}=")
                    self.visit(value)
            elif isinstance(value, list):
                write(f"{name}=[" if value else "")
                for item in value:
                    if isinstance(item, ast.AST):
                        self.visit(item)
                    else:
                        write(f"{item!r},")
                write("]" if value else "")
            elif value is not None:
                write(f"{name}={value!r},")
        write(")")

    def visit_Constant(self, node: ast.Constant) -> None:
        self._code.append(f"{node.value!r},")
        if isinstance(node.value, str):
            self._found.texts.add(node.value)
            if self._annotation:
                self._read_annotation(node.value)

    def _read_annotation(self, text: str) -> None:
        """Note the names in an annotation that is written as a string."""
        try:
            expression = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError):  # another string, within Literal say
            return
        code, self._code = self._code, []
        self.visit(expression)
        self._code = code

    def visit_Expr(self, node: ast.Expr) -> None:
        if not is_text(node):
            self.generic_visit(node)

    def visit_Pass(self, node: ast.Pass) -> None:
        pass  # a docstring may stand in its place

    def visit_Raise(self, node: ast.Raise) -> None:
        error = node.exc
        if isinstance(error, ast.Call) and last_name(error.func).endswith("Error"):
            self._code.append("Raise(")
            self.visit(error.func)
            self._write(node, ("cause",))
            self._code.append(")")
        else:
            self.generic_visit(node)

    # Names: which are bound, and which are read.

    def _bind(self, name: str | None) -> None:
        if name:
            self._scopes[-1].bound.add(name)

    def _use(self, chain: Chain) -> None:
        self._code.append(f"@{'.'.join(chain)},")
        self._scopes[-1].uses.add(chain)
        if not (self._later or self._annotation):
            self._found.immediate.add(chain)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self._use((node.id,))
        else:
            self._code.append(f"@{node.id},")
            self._bind(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if not isinstance(node.ctx, ast.Load):
            self._note_change(node.value)
        chain = _chain(node)
        if chain:
            self._use(chain)
        else:
            self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not isinstance(node.ctx, ast.Load):
            self._note_change(node.value)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self._note_call(node.func)
        if last_name(node.func) == "setattr" and node.args:
            self._note_change(node.args[0])
        self.generic_visit(node)

    def _note_call(self, function: ast.expr) -> None:
        self._note_change(function, is_called=True)
        if isinstance(function, ast.Attribute) and function.attr not in _READERS:
            self._note_change(function.value)

    def _note_change(self, changed: ast.expr, *, is_called: bool = False) -> None:
        while isinstance(changed, ast.Subscript):
            changed = changed.value
        chain = _chain(changed)
        if chain and not self._annotation:
            self._found.changes.add(Change(chain, is_called, not self._later))

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self._code.append(f"{node.target.id}:=")
        self.visit(node.value)
        around = next(s for s in reversed(self._scopes) if s.kind != "comprehension")
        around.bound.add(node.target.id)

    def visit_Global(self, node: ast.Global) -> None:
        self.generic_visit(node)
        self._scopes[-1].module.update(node.names)
        self._found.rebound.update(node.names)
        self._found.uses.update((name,) for name in node.names)
        self._found.registers = True

    def visit_Nonlocal(self, node: ast.Nonlocal) -> None:
        self.generic_visit(node)
        self._scopes[-1].outer.update(node.names)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self._bind(node.name)
        self.generic_visit(node)

    def visit_MatchAs(self, node: ast.MatchAs | ast.MatchStar) -> None:
        self._bind(node.name)
        self.generic_visit(node)

    visit_MatchStar = visit_MatchAs

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        self._bind(node.rest)
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.generic_visit(node)
        scope = self._scopes[-1]
        for binding in bindings(node, self._package):
            scope.imports.append(binding)
            scope.bound.add(binding.name)
            self._found.runs.append(binding.runs)
            if binding.name in scope.module:  # whoever reads it
                self._found.imported.add((binding.value, ()))

    visit_ImportFrom = visit_Import

    def visit_Assign(self, node: ast.Assign) -> None:
        if self._scopes[-1].kind in ("module", "class"):
            self._found.holds_state |= not is_fixed(node.value)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        kind = self._scopes[-1].kind
        # In a class, a call is most likely a dataclass's field.
        if kind == "module" or (kind == "class" and not isinstance(node.value, ast.Call)):
            self._found.holds_state |= node.value is not None and not is_fixed(node.value)
        self._write(node, ("target", "simple"))
        self._visit_annotation(node.annotation)
        self._write(node, ("value",))

    def visit_arg(self, node: ast.arg) -> None:
        self._code.append(f"{node.arg}:")
        self._visit_annotation(node.annotation)
        self._code.append(",")

    def _visit_annotation(self, node: ast.expr | None) -> None:
        if node:
            before, self._annotation = self._annotation, True
            self.visit(node)
            self._annotation = before

    # Scopes.

    @contextmanager
    def _scope(self, scope: _Scope, *, later: bool = False) -> Iterator[None]:
        before, self._later = self._later, self._later or later
        self._scopes.append(scope)
        yield
        self._scopes.pop()
        self._later = before
        # Methods do not see what a class binds, and its body may read a name before it binds it.
        hidden = set() if scope.kind == "class" else scope.bound - scope.outer
        around = self._scopes[-1].uses
        for chain in scope.uses:
            if chain[0] in scope.module:
                self._found.uses.add(chain)
            elif chain[0] not in hidden:
                around.add(chain)
        for binding in scope.imports:
            rests = [chain[1:] for chain in scope.uses if chain[0] == binding.name]
            self._found.imported.update((binding.value, rest) for rest in rests)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._bind(node.name)
        for decorator in node.decorator_list:
            self._note_call(decorator)
        self._found.registers |= node.name == "__init_subclass__"
        self._write(node, tuple(f for f in node._fields if f not in ("body", "returns")))
        self._visit_annotation(node.returns)
        with self._scope(_Scope("function", _parameters(node.args)), later=True):
            self._write(node, ("body",))

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._write(node, ("args",))
        with self._scope(_Scope("function", _parameters(node.args)), later=True):
            self._write(node, ("body",))

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._bind(node.name)
        for decorator in node.decorator_list:
            self._note_call(decorator)
        self._write(node, tuple(f for f in node._fields if f != "body"))
        with self._scope(_Scope("class")):
            self._write(node, ("body",))

    def visit_ListComp(
        self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
    ) -> None:
        first, *others = node.generators
        self.visit(first.iter)  # the one part that does not see the variables
        with self._scope(_Scope("comprehension")):
            self._write(first, ("target", "ifs", "is_async"))
            for generator in others:
                self.visit(generator)
            self._write(node, tuple(f for f in node._fields if f != "generators"))

    visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ListComp


def _parameters(arguments: ast.arguments) -> set[str]:
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return {a.arg for a in [*named, arguments.vararg, arguments.kwarg] if a}


def _chain(node: ast.expr) -> Chain:
    """A name and its attributes; nothing for any other expression."""
    attributes = []
    while isinstance(node, ast.Attribute):
        attributes.append(node.attr)
        node = node.value
    return (node.id, *reversed(attributes)) if isinstance(node, ast.Name) else ()


def last_name(node: ast.expr) -> str:
    """The last part of a name with attributes; empty for any other expression."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def is_text(node: ast.stmt) -> bool:
    """Whether this is a docstring, or another string with which nothing is done."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def is_fixed(value: ast.expr) -> bool:
    """Whether a value cannot be changed in place; another name's value is that name's matter."""
    if isinstance(value, ast.Tuple):
        return all(map(is_fixed, value.elts))
    if isinstance(value, ast.UnaryOp):
        return is_fixed(value.operand)
    if isinstance(value, ast.BinOp):  # of numbers; of two names it may be a new table
        return all(isinstance(part, ast.Constant) for part in (value.left, value.right))
    return isinstance(value, ast.Constant | ast.Name | ast.Attribute | ast.JoinedStr)
