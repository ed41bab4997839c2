"""The functions of a study, read off its code without running it.

A product is a function: its positional parameters are its inputs, its keyword-only parameters are
its options. What the config may give an option follows from its annotation (`microtome.options`).
`ax=None` is none of them: it is for axes, which only Python can give.
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
from microtome.workflow.reading import last_name
from microtome.workflow.values import fits, shown

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
        options: its keyword-only parameters, but for `ax=None`.
        streamed: whether it returns a `Streamed`, which is made in the sweep.
        held: the sizes whose product that holds of each layer, none where it is little.
    """

    file: Path
    name: str
    inputs: dict[str, tuple[Need, ...]]
    options: dict[str, Option]
    streamed: bool = False
    held: tuple[str, ...] = ()


@cache
def functions(file: Path) -> dict[str, ast.FunctionDef]:
    """The public functions that a file defines, by name.

    Raises:
        MicrotomeError: the file is missing, not UTF-8 or not Python.
    """
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"), file.name)
    except FileNotFoundError:
        raise MicrotomeError(f"{file}: no such file; write it") from None
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise MicrotomeError(f"{file}{line}: {error.msg}; correct it") from None
    except UnicodeDecodeError as error:
        raise MicrotomeError(f"{file}: byte {error.start} is not UTF-8; save it as such") from None
    except (OSError, ValueError) as error:
        raise MicrotomeError(f"{file}: cannot be read ({error}); correct it") from None
    return {
        node.name: node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }


def source(file: Path, name: str) -> str:
    """The lines of a function, as the file has them.

    Raises:
        KeyError: the file defines no such function.
        MicrotomeError: the file cannot be read.
    """
    node = functions(file)[name]
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    lines = file.read_text(encoding="utf-8").splitlines()
    return "\n".join(lines[first - 1 : node.end_lineno])


@cache
def read_function(file: Path, name: str) -> Function:
    """One function that a file defines.

    Raises:
        KeyError: the file defines no such function.
        MicrotomeError: the file cannot be read; a parameter that is neither input nor option, or
            an option that the config cannot be checked against.
    """
    node = functions(file)[name]
    arguments = node.args
    if several := arguments.vararg or arguments.kwarg:
        raise MicrotomeError(
            f"{file}, line {node.lineno}: {name} takes any number of parameters, "
            f"{several.arg!r}; write a parameter for each input and each option"
        )
    inputs = [*arguments.posonlyargs, *arguments.args]
    if arguments.defaults:
        first = inputs[-len(arguments.defaults)]
        raise MicrotomeError(
            f"{file}, line {first.lineno}: the input {first.arg!r} of {name} has a default; write "
            "`*` before options, and no default for an input"
        )
    return Function(
        file,
        name,
        {argument.arg: tuple(_needs(argument.annotation)) for argument in inputs},
        {
            argument.arg: _option(file, name, argument, default)
            for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            if not _is_axes(argument, default)
        },
        *_returned(node.returns),
    )


def _returned(annotation: ast.expr | None) -> tuple[bool, tuple[str, ...]]:
    """Whether a function returns a `Streamed`, and what that holds."""
    nodes = list(ast.walk(annotation)) if annotation else []
    streamed = any(isinstance(node, ast.expr) and last_name(node) == "Streamed" for node in nodes)
    for node in nodes:
        if isinstance(node, ast.Call) and last_name(node.func) == "Held":
            return streamed, tuple(str(ast.literal_eval(size)) for size in node.args)
    return streamed, ()


def _is_axes(argument: ast.arg, default: ast.expr | None) -> bool:
    """Whether a parameter is what a figure is drawn on when it is called by hand."""
    return argument.arg == "ax" and isinstance(default, ast.Constant) and default.value is None


def _option(file: Path, name: str, argument: ast.arg, default: ast.expr | None) -> Option:
    place = f"{file}, line {argument.lineno}: the option {argument.arg!r} of {name}"
    if argument.annotation is None:
        raise MicrotomeError(f"{place} has no type; annotate it with one of microtome.options")
    wanted = _wanted(argument.annotation)
    if wanted is None:
        raise MicrotomeError(
            f"{place} has a type that the config cannot check; use one of microtome.options"
        )
    kind = getattr(argument.annotation, "attr", ast.unparse(argument.annotation))
    if default is None:
        return Option(kind, wanted, REQUIRED)
    try:
        value = ast.literal_eval(default)
    except ValueError:
        raise MicrotomeError(
            f"{place} has a default that is computed; write the value itself"
        ) from None
    if not fits(list(value) if isinstance(value, tuple) else value, wanted.schema):
        raise MicrotomeError(f"{place} has the default {shown(value)}; it wants {wanted.text}")
    return Option(kind, wanted, value)


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
        case ast.Subscript(
            value=ast.Name(id="Literal") | ast.Attribute(attr="Literal"), slice=chosen
        ):
            nodes = chosen.elts if isinstance(chosen, ast.Tuple) else [chosen]
            values = [node.value for node in nodes if isinstance(node, ast.Constant)]
            if len(values) == len(nodes):
                return Wanted({"enum": values}, " or ".join(map(str, values)))
    return None
