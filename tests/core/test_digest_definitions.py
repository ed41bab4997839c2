"""Edits within modules: each changes the digest of exactly what uses the edited definition."""

import pytest
from planted import check_edit, rows

#: By what is edited: sources, and for each edit (old, new) the functions of products.py that it
#: makes stale.
EDITS = {
    "one function of two": (
        """
        # == products.py
        def one(x): return x + 1
        def two(x): return x + 2
        """,
        {("x + 1", "x - 1"): "one", ("x + 2", "x - 2"): "two"},
    ),
    "a helper of one": (
        """
        # == products.py
        from lib.helpers import helper
        def one(x): return helper(x)
        def two(x): return x
        # == lib/helpers.py
        def helper(x): return deep(x)
        def deep(x): return x * 2
        def unused(x): return x * 3
        """,
        {
            ("deep(x)\n", "-deep(x)\n"): "one",
            ("x * 2", "x * 4"): "one",
            ("x * 3", "x * 4"): "",
            ("import helper", "import unused as helper"): "one",
        },
    ),
    "constants": (
        """
        # == products.py
        from lib.constants import *
        A, (B, *C) = 1, (2, 3)
        D = E = 4
        F: int = 5
        F += A
        G = [6]
        (H := 7)
        UNUSED = 0
        def a(): return A
        def b(): return [B, C]
        def e(): return E
        def f(): return F
        def g(): return G + [H]
        def public(): return PUBLIC
        # == lib/constants.py
        PUBLIC, PRIVATE = 8, 9
        OTHER = PRIVATE
        """,
        {
            ("1, (2", "2, (2"): "a b f",
            ("E = 4", "E = 5"): "e",
            ("F += A", "F -= A"): "f",
            ("int = 5", "int = 6"): "f",
            ("G = [6]", "G = (6,)"): "g",
            ("UNUSED = 0", "UNUSED = 1"): "",
            ("8, 9", "9, 9"): "public",
            ("OTHER = PRIVATE", "OTHER = 3"): "",
        },
    ),
    "a class": (
        """
        # == products.py
        from lib.shapes import Square, Circle
        def square(): return Square().area()
        def circle(): return Circle.of(1)
        # == lib/shapes.py
        class Shape:
            sides = SIDES = 0
            def area(self): return 1
            def scale(self): return factor()
        class Square(Shape):
            sides = 4
        class Circle:
            @classmethod
            def of(cls, r): return PI * r
        PI = 3
        def factor(): return 5
        """,
        {
            ("return 1", "return 2"): "square",
            ("return 5", "return 6"): "square",
            ("sides = 4", "sides = 5"): "square",
            ("PI = 3", "PI = 4"): "circle",
        },
    ),
    "decorators, defaults, annotations": (
        """
        # == products.py
        from functools import cache
        def _twice(f): return lambda x: f(x) * 2
        def _start(): return 1
        Share = float
        @_twice
        def decorated(x): return x
        @cache
        def cached(x): return x
        def default(x=_start()): return x
        def keyword(*, x=_start): return x
        def annotated(x: Share): return x
        def quoted(x: "list[Share]"): return x
        def plain(x): return x
        """,
        {
            ("f(x) * 2", "f(x) * 3"): "decorated",
            ("@_twice\n", ""): "decorated",
            ("@cache", "@_twice"): "cached",
            ("return 1", "return 2"): "default keyword",
            ("Share = float", "Share = int"): "annotated quoted",
            ("x: Share", "x: float"): "annotated",
            ("(x=_start())", "(x=1)"): "default",
        },
    ),
    "closures and scopes": (
        """
        # == products.py
        def closure(x):
            def inner(y): return _far(y) + x
            return inner
        def lambdas(x): return map(lambda y: _far(y), x)
        def comprehension(x): return [_far for _far in _near(x)]
        def iterable(x): return [y for y in _far(x)]
        def parameter(_far): return _far(1)
        def local(x):
            _far = x
            return lambda: _far(x)
        def after(x, f=lambda _far: 1): return _far(x)
        def in_class(x):
            class Local:
                _far = 1
                def method(self): return _far(x)
            return Local
        def rebound(x):
            global _far
            return _far
        def _far(x): return x * 11
        def _near(x): return x * 12
        """,
        {
            ("x * 11", "x * 13"): "closure lambdas iterable after in_class rebound",
            ("x * 12", "x * 13"): "comprehension",
        },
    ),
    "errors, docstrings, comments, layout": (
        """
        # == products.py
        \"\"\"Products.\"\"\"
        from lib import errors
        def checked(x):
            \"\"\"Check.\"\"\"
            if x > 5:
                raise errors.LimitError(f"too large: {_words(x)}") from None
            return x  # unchanged
        def warned(x):
            if x > 6:
                raise StopIteration("no more")
            return Warned("a text")
        def _words(x): return f"in words {x}"
        class Warned(str): pass
        # == lib/errors.py
        class LimitError(ValueError):
            \"\"\"Beyond a limit.\"\"\"
        """,
        {
            ("too large", "too big"): "",
            ("in words", "in other words"): "",
            ('"""Check."""', '"""Checks."""'): "",
            ('"""Check."""', "pass"): "",
            ("# unchanged", "# the same"): "",
            ("return x  #", "return   (\n        x\n    )\n  #"): "",
            ("x > 5", "x > 4"): "checked",
            ("raise errors.LimitError(", "raise (errors.LimitError, 1)[0]("): "checked",
            (" from None", ""): "checked",
            ("(ValueError)", "(Exception)"): "checked",
            ("no more", "none"): "warned",
            ("a text", "another"): "warned",
        },
    ),
    "names that are bound more than once": (
        """
        # == products.py
        from lib import state
        def f(): return 21
        def f(): return 22
        LEVEL = 23
        def _raise_level():
            global LEVEL
            LEVEL = 24
        def level(): return LEVEL
        def stated(): return state.read()
        def plain(): return 25
        # == lib/state.py
        VALUE = 26
        def write():
            global VALUE
            VALUE = 27
        def read(): return VALUE
        """,
        {
            ("return 21", "return 0"): "f",
            ("LEVEL = 23", "LEVEL = 0"): "level",
            ("LEVEL = 24", "LEVEL = 0"): "level",
            ("VALUE = 27", "VALUE = 0"): "stated",
        },
    ),
    "the order of definitions": (
        """
        # == products.py
        def one(): return _a() + _b()
        def _a(): return 51
        def _b(): return 52
        A = [53]
        A.append(54)
        B = list(A)
        def two(): return B
        C = 55
        def three(x=C): return x
        C = 56
        def _g(): return 57
        D = _g()
        def _g(): return 58
        def four(): return D
        """,
        {
            ("_a(): return 51\ndef _b(): return 52", "_b(): return 52\ndef _a(): return 51"): "",
            ("A.append(54)\nB = list(A)", "B = list(A)\nA.append(54)"): "two",
            ("def three(x=C): return x\nC = 56", "C = 56\ndef three(x=C): return x"): "three",
            ("D = _g()\ndef _g(): return 58", "def _g(): return 58\nD = _g()"): "four",
        },
    ),
}


@pytest.mark.parametrize(("sources", "old", "new", "stale"), rows(EDITS))
def test_an_edit_makes_exactly_what_uses_it_stale(tmp_path, sources, old, new, stale):
    check_edit(tmp_path, sources, old, new, stale)
