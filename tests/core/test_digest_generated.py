"""Nothing that is used escapes the digest: generated packages are edited, and run.

Each definition of a package is worth a number of its own and all that it refers to. What an edit
of that number changes, when the code is run, the digest has to notice.
"""

import importlib
import random
import sys
from pathlib import Path

import pytest

from microtome.workflow import digest
from microtome.workflow.digest import code_digest

PACKAGE = "generated"
MODULES = ("a", "sub.b", "c", "sub.deep.d", "e")

#: Ways to write a definition: of its name, its number plus what it refers to, and imports within.
KINDS = {
    "function": "def {name}():\n    {late}\n    return {value}\n",
    "constant": "{name} = {value}\n",
    "pair": "{name}, {name}_other = {value}, 0\n",
    "annotated": "{name}: int = {value}\n",
    "augmented": "{name} = 0\n{name} += {value}\n",
    "class": "class {name}:\n    def value(self):\n        {late}\n        return {value}\n",
    "attribute": "class {name}:\n    number = {value}\n    def value(self): return self.number\n",
    "derived": """
class {name}_base:
    number = {value}
class {name}({name}_base):
    def value(self): return self.number
""",
    "default": "def {name}(x={value}): return x\n",
    "keyword": "def {name}(*, x=lambda: {value}): return x()\n",
    "closure": "def {name}():\n    {late}\n    def inner(): return {value}\n    return inner()\n",
    "comprehension": "def {name}():\n    {late}\n    return sum({value} for _ in range(3))\n",
    "shadowing": """
def {name}():
    {late}
    def inner({name}): return {name}
    return inner({value})
""",
    "decorator": """
def {name}_wrap(f): return lambda: f() + {value}
@{name}_wrap
def {name}(): return 1
""",
    "table": "{name}_table = {{'x': {value}}}\ndef {name}(): return {name}_table['x']\n",
}
#: Others, which may count wherever their module is imported.
WIDE_KINDS = {
    "conditional": "if True:\n    def {name}(): return {value}\n",
    "tried": "try:\n    {name} = {value}\nexcept NameError:\n    pass\n",
    "rebound": """
{name}_now = 0
def {name}_set():
    global {name}_now
    {name}_now = {value}
def {name}():
    {name}_set()
    return {name}_now
""",
    "registered": """
{name}_known = []
def {name}_note(f):
    {name}_known.append(f)
    return f
@{name}_note
def {name}_hidden(): return {value}
def {name}(): return {name}_known[0]()
""",
    "derived and noted": """
class {name}_base:
    known = []
    def __init_subclass__(cls): cls.known.append(cls)
class {name}_hidden({name}_base):
    number = {value}
def {name}(): return {name}_base.known[0].number
""",
    "set by a method": """
{name}_table = dict()
_ = {name}_table.setdefault('x', lambda: {value})
def {name}(): return {name}_table['x']()
""",
    "set by an item": """
{name}_table = {{}}
def {name}_set(f): {name}_table['x'] = f
{name}_set(lambda: {value})
def {name}(): return {name}_table['x']()
""",
    "dispatched": """
import functools
@functools.singledispatch
def {name}_single(x): return 0
@{name}_single.register
def _(x: int): return {value}
def {name}(): return {name}_single(1)
""",
    "found by name": "def {name}_(): return {value}\ndef {name}(): return globals()['{name}_']()\n",
}


class Package:
    """A package whose definitions refer to earlier ones, in all ways that one can refer."""

    def __init__(self, seed, wide):
        self.random = random.Random(seed)
        self.wide = wide
        kinds = KINDS | WIDE_KINDS if wide else KINDS
        self.imports = {module: [] for module in MODULES}
        self.bodies = {module: [] for module in MODULES}
        self.exported = []
        self.definitions = []  # name, module, kind
        for number in range(24):
            module = MODULES[number * len(MODULES) // 24]
            kind = self.random.choice(list(kinds))
            name = f"n{number}"
            wanted = min(len(self.definitions), self.random.randrange(3))
            late, terms = [], [str(1000 + number)]
            for target in self.random.sample(self.definitions, wanted):
                terms.append(
                    self.reference(module, *target, late if "{late}" in kinds[kind] else None)
                )
            indent = kinds[kind].partition("{late}")[0].rpartition("\n")[2]
            body = kinds[kind].format(
                name=name, value=f"({' + '.join(terms)})", late=f"\n{indent}".join(late) or "pass"
            )
            self.bodies[module].append(body)
            self.definitions.append((name, module, kind))

    def reference(self, module, name, where, kind, late):
        """An expression for another definition's worth; imports what it needs."""
        full, unique = f"{PACKAGE}.{where}", f"x{self.random.randrange(10**9)}"
        parent, _, last = full.rpartition(".")
        top, *rest = where.split(".")
        depth = "." * (module.count(".") + 1)
        ways = {
            f"from {full} import {name}": name,
            f"from {full} import {name} as {unique}": unique,
            f"import {full}": f"{full}.{name}",
            f"import {full} as {unique}": f"{unique}.{name}",
            f"from {parent} import {last} as {unique}": f"{unique}.{name}",
            f"from {depth}{where} import {name}": name,
            f"import {full}; from {depth} import {top} as {unique}": ".".join(
                (unique, *rest, name)
            ),
            f"from {PACKAGE} import {name}": name,
            f"from {full} import *": name,
        }
        if self.wide:
            ways[f"import {full} as {unique}; {unique} = vars({unique})"] = f"{unique}['{name}']"
            ways[f"from {parent} import {last} as {unique}z"] = f"getattr({unique}z, '{name}')"
        statement, expression = self.random.choice(list(ways.items()))
        if where == module:
            expression = name
        else:
            if statement == f"from {PACKAGE} import {name}":
                self.exported.append((where, name))
            lately = late is not None and "*" not in statement and self.random.random() < 0.4
            (late if lately else self.imports[module]).append(statement)
        return worth(expression, kind)

    def write(self, folder):
        exports = sorted(set(self.exported), key=lambda export: MODULES.index(export[0]))
        text = "".join(f"from .{where} import {name}\n" for where, name in exports)
        files = {"__init__": text, "sub/__init__": "", "sub/deep/__init__": ""}
        for module in MODULES:
            lines = "\n".join(self.imports[module])
            files[module.replace(".", "/")] = f"{lines}\n{''.join(self.bodies[module])}"
        for name, content in files.items():
            path = folder / PACKAGE / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")


def worth(expression, kind):
    if kind in ("class", "attribute", "derived"):
        return f"{expression}().value()"
    constant = kind in ("constant", "pair", "annotated", "augmented", "tried")
    return expression if constant else f"{expression}()"


def run(package):
    """What each definition is worth, in modules imported anew."""
    for known in [known for known in sys.modules if known.partition(".")[0] == PACKAGE]:
        del sys.modules[known]
    modules = {m.replace(".", "_"): importlib.import_module(f"{PACKAGE}.{m}") for m in MODULES}
    return {
        name: eval(worth(f"{module.replace('.', '_')}.{name}", kind), modules)
        for name, module, kind in package.definitions
    }


def digests(package, folder):
    digest._code.cache_clear()
    files = {m: folder / PACKAGE / f"{m.replace('.', '/')}.py" for m in MODULES}
    return {
        name: code_digest([(files[module], name)], folder)
        for name, module, _ in package.definitions
    }


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_nothing_that_runs_escapes(tmp_path: Path, monkeypatch, seed, wide):
    """Without the kinds that count wherever their module is imported, nothing else counts."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    package = Package(seed, wide)
    package.write(tmp_path)
    values, before = run(package), digests(package, tmp_path)
    for number, (_, module, _) in enumerate(package.definitions):
        file = tmp_path / PACKAGE / f"{module.replace('.', '/')}.py"
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(f"({1000 + number}", f"({5000 + number}"), encoding="utf-8")
        after, now = digests(package, tmp_path), run(package)
        file.write_text(text, encoding="utf-8")
        changed = {name for name in values if now[name] != values[name]}
        noticed = {name for name in before if after[name] != before[name]}
        assert changed
        assert changed <= noticed if wide else changed == noticed
