"""Whether a config, or a study.yaml, has the keys and values that its JSON schema asks for."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from microtome.errors import in_short, nearest
from microtome.workflow.values import shown, validator

#: The keys that lead to what is wrong in the config, and what is wrong there.
Fault = tuple[tuple[str | int, ...], str]


def schema_faults(config: Any, schema: Mapping[str, Any]) -> Iterator[Fault]:
    """Find what of a config does not fit a schema, the outermost first."""
    faults = validator(schema).iter_errors(config)
    for error in sorted(faults, key=lambda error: len(error.path)):
        path = tuple(error.path)
        if error.validator == "additionalProperties":
            known = list(error.schema["properties"])
            key = next(key for key in error.instance if key not in known)
            moved = error.schema.get("moved", {}).get(key)  # a keyword of our own
            told = f"it is `{moved}` now" if moved else nearest(str(key), known)
            yield (*path, key), f"unknown key; {told}"
        elif error.schema.get("title") == "name":
            found = in_short(repr(error.instance), width=60)
            yield path, f"{found} is no name: {error.schema['description']}"
        elif error.validator == "required":
            key = next(key for key in error.validator_value if key not in error.instance)
            yield path, f"the key {key!r} is missing{_perhaps_misspelt(config, path)}"
        else:
            wanted = error.schema.get("description", error.message)
            yield path, f"{wanted}; has {shown(error.instance)}"


def _perhaps_misspelt(config: Any, path: tuple[str | int, ...]) -> str:
    """Whether what stands at a path may be meant for what stands beside it under a like name.

    An overlay that misspells a name does not change that entry but begins another one.
    """
    if not path:
        return ""
    beside: Any = config
    for key in path[:-1]:
        beside = beside[key]
    close = get_close_matches(str(path[-1]), [str(key) for key in beside if key != path[-1]], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
