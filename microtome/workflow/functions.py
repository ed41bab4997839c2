"""The functions of a study, read off its code without running it.

A product is a function: its positional parameters are its inputs, its keyword-only parameters are
its options. What the config may give an option follows from its annotation (`microtome.options`).
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from microtome import options
from microtome.errors import MicrotomeError
from microtome.options import Need, Wanted

#: The default of an option that the config has to give.
REQUIRED = object()

_PLAIN = {
    "int": Wanted({"type": "integer"}, "a whole number"),
    "float": Wanted({"type": "number"}, "a number"),
    "str": Wanted({"type": "string"}, "a text"),
    "bool": Wanted({"type": "boolean"}, "true or false"),
}


@dataclass(frozen=True)
class Option:
    """An option of a function.

    Attributes:
        type: the name of its type, such as `Layer`.
        wanted: what a value of this type is.
        default: its default, or `REQUIRED`.
    """

    type: str
    wanted: Wanted
    default: Any


@dataclass(frozen=True)
class Function:
    """A function of a study.

    Attributes:
        file: where it is defined.
        name: its name.
        inputs: its positional parameters, and what each needs of the texts.
        options: its keyword-only parameters.
    """

    file: Path
    name: str
    inputs: dict[str, tuple[Need, ...]]
    options: dict[str, Option]


@cache
def functions(file: Path) -> dict[str, Function]:
    """The public functions that a file defines, by name.

    Raises:
        MicrotomeError: the file is missing or is not Python, or an option has no type.
    """
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"), file.name)
    except FileNotFoundError:
        raise MicrotomeError(f"{file}: no such file; write it") from None
    except SyntaxError as error:
        raise MicrotomeError(f"{file}, line {error.lineno}: {error.msg}; correct it") from None
    except (OSError, ValueError) as error:
        raise MicrotomeError(f"{file}: cannot be read ({error}); correct it") from None
    return {
        node.name: _function(file, node)
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }


def _function(file: Path, node: ast.FunctionDef) -> Function:
    arguments = node.args
    inputs = {
        argument.arg: tuple(_needs(argument.annotation))
        for argument in (*arguments.posonlyargs, *arguments.args)
    }
    taken = {}
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        place = f"{file}, line {argument.lineno}: the option {argument.arg!r} of {node.name}"
        if argument.annotation is None:
            raise MicrotomeError(f"{place} has no type; annotate it with one of microtome.options")
        wanted = _wanted(argument.annotation)
        if wanted is None:
            raise MicrotomeError(
                f"{place} has a type that the config cannot check; use one of microtome.options"
            )
        try:
            value = REQUIRED if default is None else ast.literal_eval(default)
        except ValueError:
            raise MicrotomeError(
                f"{place} has a default that is computed; write the value itself"
            ) from None
        taken[argument.arg] = Option(ast.unparse(argument.annotation), wanted, value)
    return Function(file, node.name, inputs, taken)


def _needs(annotation: ast.expr | None) -> Iterator[Need]:
    for node in ast.walk(annotation) if annotation else ():
        if isinstance(node, ast.Name) and isinstance(getattr(options, node.id, None), Need):
            yield getattr(options, node.id)


def _wanted(annotation: ast.expr) -> Wanted | None:
    """What an option's annotation asks for; None of one that means nothing to a config."""
    match annotation:
        case ast.Name(id=name) if name in _PLAIN:
            return _PLAIN[name]
        case ast.Name(id=name) | ast.Attribute(attr=name):
            found = getattr(getattr(options, name, None), "__metadata__", ())
            return next((each for each in found if isinstance(each, Wanted)), None)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=chosen):
            values = list(
                map(ast.literal_eval, chosen.elts if isinstance(chosen, ast.Tuple) else [chosen])
            )
            return Wanted({"enum": values}, " or ".join(map(str, values)))
    return None
