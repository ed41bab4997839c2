"""Edits across modules: each changes the digest of exactly what the edited code may reach."""

import pytest
from planted import check_edit, rows

#: By what is edited: sources, and for each edit (old, new) the functions of products.py that it
#: makes stale.
EDITS = {
    "ways to import": (
        """
        # == products.py
        import lib.sub.deep
        import lib.a as m
        import lib.a as lib_a, lib.b
        from lib import a, b as other, exported
        from lib.again import renamed as name
        def chain(): return lib.sub.deep.f()
        def alias(): return m.f()
        def module(): return a.f()
        def second(): return other.f()
        def reexported(): return exported()
        def twice(): return name()
        def late():
            from lib.late import k
            return k
        def dotted():
            import lib.late
            return lib.late.k
        def nonlocally():
            import lib.b as n
            def inner():
                nonlocal n
                n = n or 0
                return n.f()
            return inner()
        def relative(): return a.through_relative()
        # == lib/__init__.py
        from .source import exported
        # == lib/source.py
        def exported(): return 1
        def hidden(): return 2
        # == lib/a.py
        from . import b
        from .sub import deep as down
        def f(): return 3
        def through_relative(): return b.f() + down.f()
        # == lib/b.py
        def f(): return 4
        # == lib/late.py
        k, l = 5, 6
        def unused(): return 7
        # == lib/again.py
        from lib.source import hidden as renamed
        # == lib/sub/__init__.py
        # == lib/sub/deep.py
        def f(): return 8
        def g(): return 9
        """,
        {
            ("return 1\n", "return 0\n"): "reexported",
            ("return 2", "return 0"): "twice",
            ("return 3", "return 0"): "alias module",
            ("return 4", "return 0"): "second relative nonlocally",
            ("5, 6", "4, 6"): "late dotted",
            ("return 7", "return 0"): "",
            ("return 8", "return 0"): "chain relative",
            ("return 9", "return 0"): "",
            (".source import exported", ".source import hidden as exported"): "reexported",
            ("a, b as other", "b as a, a as other"): "module second relative",
        },
    ),
    "what importing runs": (
        """
        # == products.py
        from lib.sub import a
        def one(): return a.f()
        def two(): return 2
        def three():
            import lib.quiet
            return 3
        # == lib/__init__.py
        SETTINGS = {}
        UNUSED = 0
        # == lib/quiet.py
        from lib import SETTINGS
        SETTINGS["quiet"] = 7
        # == lib/sub/__init__.py
        from lib import SETTINGS
        SETTINGS["sub"] = 5
        # == lib/sub/a.py
        import lib.others
        def f(): return 1
        # == lib/others.py
        from lib import SETTINGS
        for i in range(3):
            SETTINGS[i] = weight(i)
        def weight(i): return i * 2
        def heavy(i): return i * 3
        """,
        {
            ("= 5", "= 6"): "one two three",
            ("range(3)", "range(4)"): "one two three",
            ("i * 2", "i * 4"): "one two three",
            ("i * 3", "i * 4"): "",
            ("= 7", "= 8"): "three",
            ("SETTINGS = {}", "SETTINGS = dict()"): "one two three",
            ("UNUSED = 0", "UNUSED = 1"): "",
        },
    ),
    "what cannot be told": (
        """
        # == products.py
        from lib import opened, made, cond, passed
        def by_name(name): return getattr(opened, name)
        def passing(): return list([opened])
        def missing(): return made.anything
        def found(): return made.thing()
        def conditional(): return cond.f()
        # == lib/__init__.py
        # == lib/opened.py
        from lib.inner import g
        def f(): return 11
        # == lib/inner.py
        def g(): return 12
        def h(): return 13
        # == lib/made.py
        def __getattr__(name): return globals()["_" + name]
        def _anything(): return 14
        def thing(): return 15
        # == lib/cond.py
        try:
            import fast
        except ImportError:
            def f(): return 16
        else:
            def f(): return fast.f(17)
        def unused(): return 18
        # == lib/passed.py
        def f(): return 19
        """,
        {
            ("return 11", "return 0"): "by_name passing",
            ("return 12", "return 0"): "by_name passing",
            ("return 13", "return 0"): "",
            ("return 14", "return 0"): "missing",
            ("return 15", "return 0"): "missing found",
            # What stands in a condition runs with the import of its module.
            ("return 16", "return 0"): "by_name passing missing found conditional",
            ("return 18", "return 0"): "",
            ("return 19", "return 0"): "",
        },
    ),
    "modules imported by name": (
        """
        # == products.py
        from lib.load import loaded
        from other.load import constant
        from plugins import load
        def one(name): return loaded(name)
        def two(): return constant()
        def three(name): return load(name)
        def four(): return 71
        # == lib/load.py
        import importlib
        def loaded(name): return importlib.import_module(f"plugins.{name}")
        def unused(): return 72
        # == other/load.py
        import sys
        def constant(): return sys.modules["plugins.a"].f()
        # == plugins/__init__.py
        from importlib import import_module as get
        def load(name): return get(f".{name}", __package__)
        # == plugins/a.py
        def f(): return 73
        # == plugins/b.py
        def f(): return 74
        """,
        {
            ("return 71", "return 0"): "four",
            ("return 72", "return 0"): "one",  # of the package that imports
            ("return 73", "return 0"): "one two three",
            ("return 74", "return 0"): "one three",
        },
    ),
    "what notes itself when it is imported": (
        """
        # == products.py
        from functools import singledispatch
        from lib import plugins, registry
        def registered(name): return registry.KNOWN[name]()
        def plain(): return 31
        @singledispatch
        def dispatched(x): return 32
        @dispatched.register
        def _(x: int): return 33
        # == lib/registry.py
        KNOWN = {}
        def register(f):
            KNOWN[f.__name__] = f
            return f
        LAST = None
        def remember(f):
            global LAST
            LAST = f
        class Base:
            def __init_subclass__(cls): register(cls)
        class Quiet: pass
        def unchanged(f): return f
        # == lib/plugins.py
        from lib.registry import Base, Quiet, register, remember, unchanged
        @register
        def noted(): return 34
        class Derived(Base):
            value = 35
        class Other(Quiet):
            value = 36
        @remember
        def last(): return 38
        @unchanged
        def forgotten(): return 37
        # == lib/__init__.py
        """,
        {
            ("return 33", "return 0"): "registered plain dispatched",
            ("return 34", "return 0"): "registered plain dispatched",
            ("return 38", "return 0"): "registered plain dispatched",
            ("= 35", "= 0"): "registered plain dispatched",
            ("= 36", "= 0"): "",
            ("return 37", "return 0"): "",
        },
    ),
    "studies by their other name": (
        """
        # == products.py
        import microtome as mt
        from microtome.studies.one import figures
        from microtome.studies.one.statistics import rsa
        from microtome import studies
        def called(): return rsa()
        def drawn(): return figures.profile()
        def through_package(): return mt.studies.one.statistics.rsa()
        def passing(): return list([studies])
        def whole(): return list([mt])
        def none(): return 84
        # == microtome/__init__.py
        def __getattr__(name): return 85
        # == microtome/studies.py
        from importlib import import_module
        def __getattr__(name): return import_module(f"microtome.studies.{name}")
        # == studies/one/statistics.py
        def rsa(): return 81
        # == studies/one/figures.py
        def profile(): return 82
        # == studies/other/figures.py
        def profile(): return 83
        """,
        {
            ("return 81", "return 0"): "called through_package passing whole",
            ("return 82", "return 0"): "drawn passing whole",
            ("return 83", "return 0"): "passing whole",
            ("return 85", "return 0"): "whole",
        },
    ),
    "imports in a circle": (
        """
        # == products.py
        from lib.a import f
        def one(): return f(1)
        # == lib/a.py
        from lib import b
        def f(x): return b.g(x) if x else 41
        # == lib/b.py
        import lib.a
        def g(x): return lib.a.f(x - 1)
        def h(x): return lib.a.f(42)
        """,
        {("41", "0"): "one", ("x - 1", "x - 2"): "one", ("42", "0"): ""},
    ),
    "plumbing": (
        """
        # == products.py
        from microtome.workflow.jobs import job
        from microtome.workflow import inputs
        from microtome import store
        from microtome.errors import MicrotomeError
        def one():
            job()
            store.files.write()
            raise MicrotomeError("of no weight")
        def two(): return inputs.section()
        # == microtome/__init__.py
        # == microtome/errors.py
        class MicrotomeError(Exception): pass
        # == microtome/store/__init__.py
        # == microtome/store/files.py
        def write(): return 61
        # == microtome/workflow/__init__.py
        # == microtome/workflow/jobs.py
        def job(): return 62
        # == microtome/workflow/inputs.py
        def section(): return 63
        def tokens(): return 64
        """,
        {
            ("(Exception)", "(ValueError)"): "",
            ("return 61", "return 0"): "",
            ("return 62", "return 0"): "",
            ("return 63", "return 0"): "two",
            ("return 64", "return 0"): "",
            ("import job\n", "import other as job\n"): "one",
        },
    ),
}


@pytest.mark.parametrize(("sources", "old", "new", "stale"), rows(EDITS))
def test_an_edit_makes_exactly_what_uses_it_stale(tmp_path, sources, old, new, stale):
    check_edit(tmp_path, sources, old, new, stale)
