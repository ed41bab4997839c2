"""Names are followed as Python's own compiler follows them, in the standard library."""

import ast
import re
import symtable
import sysconfig
from pathlib import Path

import pytest

from microtome.workflow.reading import read

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
FILES = [
    file
    for folder in (".", "asyncio", "collections", "concurrent/futures", "email", "json", "logging")
    for file in sorted((LIBRARY / folder).glob("*.py"))
]


def module_names(table, *, perhaps):
    """Names that a function or a class reads of its module, as the compiler has it.

    With `perhaps`, also those that the body of a class may read there before it binds them.
    """
    found = set()
    for symbol in table.get_symbols():
        local = table.get_type() == "class" and symbol.is_local()
        if symbol.is_referenced() and (symbol.is_global() or (perhaps and local)):
            found.add(symbol.get_name())
        if symbol.is_declared_global():
            found.add(symbol.get_name())
    for inner in table.get_children():
        found |= module_names(inner, perhaps=perhaps)
    return found


def names(*nodes):
    return {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name)}


def in_errors(node):
    """Names in the arguments of errors that are raised, which do not count."""
    raised = [n.exc for n in ast.walk(node) if isinstance(n, ast.Raise)]
    return {n for error in raised if isinstance(error, ast.Call) for n in names(error)}


def quoted(node):
    """Names in strings: annotations, perhaps."""
    constants = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
    return {
        name for text in constants if isinstance(text, str) for name in re.findall(r"\w+", text)
    }


@pytest.mark.parametrize("part", range(8))
def test_the_names_that_a_definition_uses_are_the_compilers(part):
    n_definitions = 0
    for file in FILES[part::8]:
        text = file.read_text(encoding="utf-8")
        tables = symtable.symtable(text, str(file), "exec").get_children()
        # The module's own table is called top, and a function of that name is taken for one.
        by_place = {(t.get_name(), t.get_lineno()): t for t in tables}
        for node in ast.parse(text).body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or "def top(" in text:
                continue
            table = by_place[node.name, node.lineno]
            outside = names(*node.decorator_list)
            if isinstance(node, ast.FunctionDef):
                outside |= names(node.args, *([node.returns] if node.returns else []))
            else:
                outside |= names(*node.bases, *node.keywords)
            used = {chain[0] for chain in read(node, ()).uses}
            most = module_names(table, perhaps=True) | outside | quoted(node)
            least = module_names(table, perhaps=False) - in_errors(node) - {"__class__"}
            place = f"{file.name}: {node.name}"
            assert {name for name in used - most if not name.startswith("__")} == set(), place
            assert least <= used, place
            n_definitions += 1
    assert n_definitions > 100
