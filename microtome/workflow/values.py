"""Values of a config: whether they fit a JSON schema, and how messages show them."""

import json
import math
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from microtome.errors import in_short

if TYPE_CHECKING:
    from jsonschema.protocols import Validator


def validator(schema: Mapping[str, Any]) -> "Validator":
    """A validator that takes 30.0 for no integer, and NaN and infinity for no numbers."""
    from jsonschema import Draft202012Validator, validators

    types = Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda checker, value: type(value) is int,
            "number": lambda checker, value: type(value) in (int, float) and abs(value) < math.inf,
        }
    )
    return validators.extend(Draft202012Validator, type_checker=types)(schema)


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value fits a schema."""
    return _validator(json.dumps(schema)).is_valid(value)


def shown(value: Any) -> str:
    """A value as a config may have it, in a few characters: a text is in quotes."""
    return in_short(json.dumps(value, ensure_ascii=False, default=str), width=60)


@cache
def _validator(schema: str) -> "Validator":
    return validator(json.loads(schema))
