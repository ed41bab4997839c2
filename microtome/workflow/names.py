"""Names as import statements bind them."""

import ast
from typing import NamedTuple

#: A name, and the attributes read of it one after another: ("np", "linalg", "norm").
Chain = tuple[str, ...]


class Import(NamedTuple):
    """A module, or something that is taken out of it.

    Attributes:
        module: the parts of the module's absolute name.
        names: what is taken out of the module; empty for the module itself.
    """

    module: Chain
    names: Chain = ()


class Binding(NamedTuple):
    """One of the names that an import statement binds.

    Attributes:
        name: the name; `*` for all names of the module.
        value: what it is bound to.
        runs: what is imported for it: `import a.b` binds `a`, and runs `a.b`.
    """

    name: str
    value: Import
    runs: Import


def bindings(node: ast.Import | ast.ImportFrom, package: Chain) -> list[Binding]:
    """The names that an import statement binds.

    Args:
        node: the statement.
        package: the package it stands in, for imports relative to that.
    """
    if isinstance(node, ast.Import):
        modules = [(tuple(alias.name.split(".")), alias.asname) for alias in node.names]
        return [
            Binding(name or module[0], Import(module if name else module[:1]), Import(module))
            for module, name in modules
        ]
    above = package[: len(package) - node.level + 1] if node.level else ()
    module = (*above, *(node.module.split(".") if node.module else ()))
    return [
        Binding(alias.asname or alias.name, Import(module, (alias.name,)), value)
        for alias in node.names
        for value in [Import(module, () if alias.name == "*" else (alias.name,))]
    ]
