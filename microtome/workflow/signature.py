"""What a product's script takes: its inputs and options, read off its code without running it.

Inputs are what it reads of `snakemake.input` by name. Options are the keys it takes out of
`snakemake.params.options`, and the parameters of the functions it hands all of them to with `**`,
whether these stand in the script itself or are imported from the repository.
"""

import ast
from dataclasses import dataclass
from pathlib import Path

from microtome.errors import MicrotomeError


@dataclass(frozen=True)
class Signature:
    """What a script takes.

    Attributes:
        inputs: the names it reads of `snakemake.input`; none where its code does not say.
        required: the options it cannot do without.
        options: all options it knows; None where its code does not say.
    """

    inputs: frozenset[str]
    required: frozenset[str]
    options: frozenset[str] | None


def signature(script: Path, root: Path) -> Signature:
    """Read what a script takes.

    Args:
        script: a Python file.
        root: the folder that holds the local packages (the repository).

    Raises:
        MicrotomeError: the script is not Python.
    """
    tree = _parse(script)
    nodes = list(ast.walk(tree))
    inputs: set[str] = set()
    required: set[str] = set()
    optional: set[str] = set()
    unclear = _unclear(nodes)
    used, understood = {id(node) for node in unclear if not _is(node, "input")}, set()
    for node in nodes:
        if _is_options(node):
            used.add(id(node))
        match node:
            case ast.Attribute(value, name) if _is(value, "input"):
                inputs |= {name} - {"get", "items", "keys"}  # these are Snakemake's own
            case ast.Subscript(value, ast.Constant(str(key)), ast.Load()):
                if _is_options(value):
                    required.add(key)
                    understood.add(id(value))
            case ast.Call(
                func=ast.Attribute(value=value, attr="pop" | "get" as method),
                args=[ast.Constant(value=str(key)), *default],
            ) if _is_options(value):
                (required if method == "pop" and not default else optional).add(key)
                understood.add(id(value))
            case ast.Call():
                for keyword in node.keywords:
                    if keyword.arg is None and _is_options(keyword.value):
                        left = _parameters_left(node, tree, root)
                        if left is not None:
                            required |= left[0]
                            optional |= left[1]
                            understood.add(id(keyword.value))
            case ast.Assign(targets=[target], value=value):
                both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
                pairs = zip(target.elts, value.elts, strict=False) if both else [(target, value)]
                for name, given in pairs:
                    if isinstance(given, ast.Call) and ast.unparse(given.func) == "dict":
                        given = given.args[0] if given.args else given
                    if _is_options(name) and _is_options(given):
                        understood |= {id(name), id(given)}
    if any(_is(node, "input") for node in unclear):
        inputs.clear()
    if used - understood:
        return Signature(frozenset(inputs), frozenset(), None)
    return Signature(frozenset(inputs), frozenset(required), frozenset(required | optional))


def _is(node: ast.AST, part: str) -> bool:
    """Whether this is `snakemake.input` or the like."""
    match node:
        case ast.Attribute(ast.Name(id="snakemake"), attr):
            return attr == part
    return False


def _is_options(node: ast.AST) -> bool:
    """Whether this is `snakemake.params.options`, or the name `options` that scripts give it."""
    match node:
        case ast.Name(id="options"):
            return True
        case ast.Attribute(value, "options"):
            return _is(value, "params")
    return False


def _unclear(nodes: list[ast.AST]) -> list[ast.AST]:
    """Places where inputs or options go as a whole, and what is taken of them is not seen."""
    followed = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        match node:
            case ast.Call(ast.Name(id="job"), arguments):
                followed |= set(map(id, arguments))
    return [
        node
        for node in nodes
        if (isinstance(node, ast.arg) and node.arg == "options")
        or (isinstance(node, ast.Name) and node.id == "snakemake" and id(node) not in followed)
        or ((_is(node, "input") or _is(node, "params")) and id(node) not in followed)
    ]


def _parameters_left(
    call: ast.Call, tree: ast.Module, root: Path
) -> tuple[set[str], set[str]] | None:
    """The parameters that a call leaves to `**options`: without default, and with one."""
    function = _function(call.func, tree, root)
    spread = any(isinstance(argument, ast.Starred) for argument in call.args)
    if function is None or function.args.kwarg or spread:
        return None
    given = {keyword.arg for keyword in call.keywords}
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    n_required = len(positional) - len(arguments.defaults)
    required = {a.arg for a in positional[len(call.args) : n_required]}
    optional = {a.arg for a in positional[max(n_required, len(call.args)) :]}
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        (optional if default else required).add(argument.arg)
    return required - given, optional - given


def _function(called: ast.expr, tree: ast.Module, root: Path) -> ast.FunctionDef | None:
    """The definition of a function by its name, in this file or in the one it is imported from."""
    if not isinstance(called, ast.Name):
        return None
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=called.id):
                return node
            case ast.ImportFrom(module=str(module), level=0):
                file = root / f"{module.replace('.', '/')}.py"
                names = {alias.asname or alias.name: alias.name for alias in node.names}
                if called.id in names and file.is_file():
                    return _function(ast.Name(names[called.id]), _parse(file), root)
    return None


def _parse(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_text(encoding="utf-8"), file.name)
    except SyntaxError as error:
        raise MicrotomeError(f"{file}, line {error.lineno}: {error.msg}; correct it") from None
