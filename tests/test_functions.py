"""What a study's functions take, read off their code."""

import pytest
from origins import refused

from microtome.options import ALL_TOKENS, ONE_TEXT
from microtome.workflow.functions import REQUIRED, functions, read_function
from microtome.workflow.values import fits

CODE = """
import no_such_package
from typing import Annotated, Literal

def norms(section: Annotated[xr.Dataset, ALL_TOKENS, ONE_TEXT], other, *, site: Site = "attn_out",
          scale: Literal["cosine", 2], factor: Number, limits: Limits = (0.0, 1.0)):
    raise SystemExit

def _helper(x): ...
CONSTANT = 1
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "statistics.py"
    path.write_text(CODE, encoding="utf-8")
    return path


def test_a_function_is_read_without_running_it(file):
    assert list(functions(file)) == ["norms"]
    norms = read_function(file, "norms")
    assert norms.inputs == {"section": (ALL_TOKENS, ONE_TEXT), "other": ()}
    assert {name: option.default for name, option in norms.options.items()} == {
        "site": "attn_out",
        "scale": REQUIRED,
        "factor": REQUIRED,
        "limits": (0.0, 1.0),
    }
    with pytest.raises(KeyError):
        read_function(file, "_helper")


@pytest.mark.parametrize(
    ("option", "right", "wrong"),
    [
        ("site", ["attn_out", "q"], ["attn", "logits", ["q"], None]),
        ("scale", ["cosine", 2], ["cosines", 1, "2"]),
        ("factor", [0.5, 2, -1e30], [float("nan"), float("inf"), 1e31, "1", True]),
        ("limits", [[0, 1], [0.5, 0.5]], [[0], [0, 1, 2], [0, "1"], [0, float("inf")], 0]),
    ],
)
def test_an_options_type_says_what_a_config_may_give_it(file, option, right, wrong):
    schema = read_function(file, "norms").options[option].wanted.schema
    assert all(fits(value, schema) for value in right)
    assert not any(fits(value, schema) for value in wrong)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def f(*, n): ...", "line 1: the option 'n' of f has no type"),
        ("def f(*, n: Something): ...", "a type that the config cannot check"),
        ("def f(*, n: int = len('')): ...", "a default that is computed"),
        ("def f(x, *xs): ...", "takes any number of parameters, 'xs'"),
        ("def f(x=1): ...", "the input 'x' of f has a default"),
    ],
)
def test_a_function_that_no_config_can_serve_is_refused(tmp_path, code, says):
    path = tmp_path / "statistics.py"
    path.write_text(code, encoding="utf-8")
    refused(lambda: read_function(path, "f"), path, says)


@pytest.mark.parametrize(
    ("content", "says"), [(b"def f(:\n", "line 1"), (b"\xff", "not UTF-8"), (None, "no such file")]
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, content, says):
    path = tmp_path / "statistics.py"
    if content is not None:
        path.write_bytes(content)
    refused(lambda: functions(path), path, says)
