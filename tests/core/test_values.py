"""Values of a config against a JSON schema, and as messages show them."""

import pytest
import yaml

from microtome.workflow.values import fits, shown

WHOLE, NUMBER = {"type": "integer"}, {"type": "number"}


@pytest.mark.parametrize(
    ("text", "whole", "number"),
    [
        ("30", True, True),
        ("30.0", False, True),  # JSON schema itself takes it for an integer
        ("-0", True, True),
        ("true", False, False),
        (".nan", False, False),
        (".inf", False, False),
        ("-.inf", False, False),
        ("1e-3", False, False),  # a text, by YAML 1.1
        ("1.0e-3", False, True),
        ("'30'", False, False),
        ("~", False, False),
    ],
)
def test_numbers_are_those_of_python(text, whole, number):
    value = yaml.safe_load(text)
    assert (fits(value, WHOLE), fits(value, NUMBER)) == (whole, number)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (True, "true"),
        (None, "null"),
        ("1", '"1"'),
        ("", '""'),
        ("é", '"é"'),
        (float("inf"), "Infinity"),
        ([1, "a"], '[1, "a"]'),
        ({"a": 1}, '{"a": 1}'),
        (
            {
                1,
            },
            '"{1}"',
        ),
        ("a\nb", '"a\\nb"'),
    ],
)
def test_values_are_shown_as_json(value, text):
    assert shown(value) == text


def test_a_long_value_is_shown_in_short():
    assert len(shown(["word"] * 100)) <= 60
