"""What a function of a study takes, read off its code."""

from pathlib import Path

import pytest
from origins import refused

from microtome import options
from microtome.errors import MicrotomeError
from microtome.options import ALL_TOKENS, WORDS
from microtome.workflow.functions import REQUIRED, functions, read_function
from microtome.workflow.values import fits

ROOT = Path(__file__).parents[2]
IMPORTS = "from typing import Annotated, Literal\n\nfrom microtome import options\n\n\n"


@pytest.fixture
def read(tmp_path):
    def read(code, name="f"):
        file = tmp_path / "statistics.py"
        file.write_text(IMPORTS + code, encoding="utf-8")
        return read_function(file, name)

    return read


def test_positional_parameters_are_inputs_and_the_others_options(read):
    found = read("def f(section, /, norms, *, n: Count, seed: Seed = 3):\n    return 1\n")
    assert found.name == "f"
    assert list(found.inputs) == ["section", "norms"]
    assert {name: option.default for name, option in found.options.items()} == {
        "n": REQUIRED,
        "seed": 3,
    }


def test_the_code_is_not_run(tmp_path):
    mark = tmp_path / "mark"
    file = tmp_path / "statistics.py"
    file.write_text(
        f"import no_such_package\nopen({str(mark)!r}, 'w')\n\n\ndef f():\n    pass\n",
        encoding="utf-8",
    )
    assert list(functions(file)) == ["f"]
    assert not mark.exists()


def test_private_functions_classes_and_imports_are_no_products(tmp_path):
    code = (
        "from math import sqrt\n\nclass A:\n    def g(self): ...\n\ndef f(): ...\ndef _h(): ...\n"
    )
    (tmp_path / "statistics.py").write_text(code, encoding="utf-8")
    assert list(functions(tmp_path / "statistics.py")) == ["f"]
    for name in ("sqrt", "A", "g", "_h"):
        with pytest.raises(KeyError):
            read_function(tmp_path / "statistics.py", name)


def test_what_an_input_needs_stands_in_its_annotation(read):
    found = read(
        "def f(a: Annotated[xr.Dataset, ALL_TOKENS, WORDS], b: xr.Dataset, c):\n    pass\n"
    )
    assert found.inputs == {"a": (ALL_TOKENS, WORDS), "b": (), "c": ()}


@pytest.mark.parametrize(
    ("annotation", "name", "right", "wrong"),
    [
        ("int", "int", [0, -3], [1.0, True, "1", None]),
        ("float", "float", [0, 1.5, -2], ["1", True, float("nan"), float("inf")]),
        ("str", "str", ["", "a"], [1, None]),
        ("bool", "bool", [True, False], [0, "yes"]),
        ("Layer", "Layer", [0, 5, "0%", "20%", "100%"], [-1, 5.0, "5", "05%", "101%", "2.5%"]),
        (
            "options.Layer",
            "Layer",
            [0, 5, "0%", "20%", "100%"],
            [-1, 5.0, "5", "05%", "101%", "2.5%"],
        ),
        ("Position", "Position", [-1, 0, 7], [0.5, "last"]),
        ("FirstPosition", "FirstPosition", [0, 7], [-1]),
        ("Count", "Count", [1, 1_000_000], [0, 1_000_001, 1e3]),
        ("Edges", "Edges", [2, 201], [1, 10**11]),
        ("Seed", "Seed", [0, 2**32 - 1], [-1, 2**32]),
        ("Number", "Number", [-1e30, 0, 2.5], [1e31, float("inf")]),
        ("Positive", "Positive", [1e-9, 4], [0, -1, 1e31]),
        ("NotNegative", "NotNegative", [0, 4.5], [-1e-9]),
        ("Alpha", "Alpha", [0.05], [0, 1, "5%"]),
        ("Limits", "Limits", [[0.0, 1]], [[0], [0, 1, 2], 1, [0, float("inf")]]),
        ("Target", "Target", [" insect"], ["", 5]),
        ("LabelPair", "LabelPair", [["noun", "verb"]], [["noun"], ["noun", "noun"], "noun"]),
        ("Site", "Site", ["q"], ["logits", ["q"], "qq"]),
        ("Sites", "Sites", [["q"], ["q", "k", "v", "z"]], [[], ["q", "q"], "q", ["ln_final"]]),
        ("ComparableSites", "ComparableSites", [["q", "k"]], [["q"]]),
        ("SitePair", "SitePair", [["q", "k"]], [["q"], ["q", "k", "v"], ["q", "q"]]),
        ('Literal["a", "b"]', 'Literal["a", "b"]', ["a", "b"], ["c", 1]),
        ("Literal[1, 2]", "Literal[1, 2]", [1, 2], [3, "1"]),
    ],
)
def test_what_a_type_takes(read, annotation, name, right, wrong):
    option = read(f"def f(*, x: {annotation}):\n    pass\n").options["x"]
    assert option.type.replace("'", '"') == name
    assert option.default is REQUIRED
    assert [value for value in right if not fits(value, option.wanted.schema)] == []
    assert [value for value in wrong if fits(value, option.wanted.schema)] == []


def test_every_type_of_an_option_says_what_it_wants():
    found = {
        name: getattr(options, name).__metadata__[0]
        for name in vars(options)
        if hasattr(getattr(options, name), "__metadata__")
    }
    assert len(found) > 15
    assert all(wanted.schema and wanted.text for wanted in found.values())


def test_defaults_are_values_of_their_types(read):
    code = 'def f(*, a: Sites = ("q", "k"), b: Position = -1, c: Literal["x"] = "x"):\n    pass\n'
    defaults = {name: option.default for name, option in read(code).options.items()}
    assert defaults == {"a": ("q", "k"), "b": -1, "c": "x"}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def f(*, n): ...", r"line 6: the option 'n' of f has no type; annotate it with one of"),
        ("def f(*, n: list[int]): ...", "a type that the config cannot check"),
        ("def f(*, n: 'int'): ...", "a type that the config cannot check"),
        ("def f(*, n: int | None = None): ...", "a type that the config cannot check"),
        ("def f(*, n: Literal[x]): ...", "a type that the config cannot check"),
        ("def f(*, n: int = 2 * 3): ...", "a default that is computed; write the value itself"),
        ("def f(*, n: int = 1.5): ...", "has the default 1.5; it wants a whole number"),
        (
            "def f(*, n: Layer = None): ...",
            "has the default null; it wants a layer, as in 6 or 20%",
        ),
        ("def f(n=1): ...", "the input 'n' of f has a default; write `.` before options"),
        ("def f(*inputs): ...", "f takes any number of parameters, 'inputs'; write a parameter"),
        ("def f(**options): ...", "f takes any number of parameters, 'options'"),
        ("def f(:", r"statistics\.py, line 6: invalid syntax; correct it"),
    ],
)
def test_what_a_config_cannot_be_checked_against_is_an_error(read, code, message):
    with pytest.raises(MicrotomeError, match=message):
        read(code)


@pytest.mark.parametrize(
    ("parameter", "found"),
    [("ax: Axes | None = None", ["layer"]), ("ax: int = 3", ["layer", "ax"])],
)
def test_axes_are_given_by_python_alone(read, parameter, found):
    assert list(read(f"def f(rsa, *, layer: Layer, {parameter}): ...\n").options) == found


def test_helpers_may_take_what_they_like(read):
    assert read("def g(*args, n, **more): ...\n\n\ndef f(*, n: int): ...\n").inputs == {}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file; write it"),
        (b"# caf\xe9\n", "byte 5 is not UTF-8; save it as such"),
        (b"def f():\n    pass\n\0", "correct it"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, says):
    file = tmp_path / "statistics.py"
    if content is not None:
        file.write_bytes(content)
    refused(lambda: functions(file), file, says)


def test_the_functions_of_every_study_can_be_read():
    files = sorted(ROOT.glob("studies/*/*.py"))
    found = [read_function(file, name) for file in files for name in functions(file)]
    assert len(found) > 60
