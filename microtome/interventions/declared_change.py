"""The change that an intervention declares, read from a config or from keyword arguments."""

from collections.abc import Mapping
from math import isfinite
from numbers import Real
from typing import Any

from microtome.errors import nearest
from microtome.interventions.declaration import (
    AXES,
    CHANGES,
    Change,
    DeclarationError,
    Vector,
)
from microtome.interventions.values import (
    axes_of,
    each_once,
    is_whole,
    one_of,
    refuse_unknown,
    shown,
    statistics_variable,
    tokens_of,
    whole_numbers,
)

_LARGEST_SEED = 2**32 - 1


def change_of(value: Any, each: tuple[str, ...]) -> Change:
    """Read the change; what its cases differ in has to be in `each`."""
    if callable(value):
        value = {"use": value}
    if isinstance(value, str):
        value = {value: None}
    known = ", ".join(CHANGES)
    if not isinstance(value, Mapping):
        raise DeclarationError(("change",), f"wants one of {known}; has {shown(value)}")
    kinds = [key for key in value if key in CHANGES]
    if len(kinds) != 1:
        remedy = nearest(str(next(iter(value), "")), list(CHANGES)) if not kinds else "name one"
        raise DeclarationError(("change",), f"wants one of {known}; {remedy}")
    [kind] = kinds
    refuse_unknown(("change",), value, (kind, *CHANGES[kind]))
    own, keys = value[kind], ("change", kind)
    found: dict[str, Any] = {}
    match kind:
        case "zero":
            if own is not None:
                raise DeclarationError(keys, "takes no value; write `change: zero`")
        case "scale" | "add" | "noise":
            least, wanted = (0, "a number, 0 or more") if kind == "noise" else (None, "a number")
            found["amounts"] = _amounts(keys, own, each, wanted, least=least)
        case "patch":
            found["pairs"] = _pairs(keys, own)
        case "mean" | "median" | "permute":
            axes = AXES if kind == "permute" else ("texts", *AXES)
            found["over"] = axes_of(keys, own, axes)
        case "project":
            found |= _projection(own, value, each)
        case "use":
            if not (callable(own) or (isinstance(own, str) and own.isidentifier())):
                raise DeclarationError(
                    keys, f"wants the name of a function of changes.py; has {shown(own)}"
                )
            found["function"] = own
    for key in value.keys() - {kind}:
        found |= _change_option(kind, key, value[key], each)
    for name, held in (("amount", "amounts"), ("seed", "seeds")):
        if name in each and held not in found:
            raise DeclarationError(
                ("each",), f"has {name}, but the change has no list of them; take it out"
            )
    if "position" in found and "align" in found:
        raise DeclarationError(("change", "align"), "means nothing beside `from`; take one out")
    if kind in ("mean", "median") and "by" in found and "amounts" not in found:
        raise DeclarationError(("change", "by"), "means nothing without `largest`; take it out")
    if "texts" in found.get("over", ()) and "amounts" in found:
        raise DeclarationError(("change", "largest"), "means nothing over texts; take it out")
    if kind in ("mean", "median"):
        found.setdefault("by", "value")
    return Change(kind, **found)


def _change_option(kind: str, key: str, value: Any, each: tuple[str, ...]) -> dict[str, Any]:
    """A key of a change beside its name, as an attribute of `Change`."""
    keys = ("change", key)
    match key:
        case "seed":
            return {"seeds": _seeds(keys, value, each)}
        case "amount":
            return {"amounts": _amounts(keys, value, each, "a number")}
        case "largest":
            return {"amounts": _amounts(keys, value, each, "a share from 0 to 1", least=0, most=1)}
        case "of":
            one_of(keys, value, ("sd",))
            return {"of_sd": True}
        case "by" if kind != "project":
            return {"by": one_of(keys, value, ("value", "magnitude"))}
        case "vector":
            return {"vector": _vector(keys, value)}
        case "from":
            if not is_whole(value, -(10**9)):
                raise DeclarationError(
                    keys, f"wants a position of the giving text; has {shown(value)}"
                )
            return {"position": value}
        case "align":
            return {"align": one_of(keys, value, ("start", "end"))}
    return {}


def _projection(own: Any, value: Mapping[str, Any], each: tuple[str, ...]) -> dict[str, Any]:
    by = one_of(("change", "by"), value.get("by", "components"), ("components", "variance"))
    keys = ("change", "project")
    if by == "variance":
        amounts = _amounts(keys, own, each, "a share above 0, at most 1", least=0, most=1)
    else:
        amounts = _amounts(keys, own, each, "a number of components, 1 or more", least=1)
    if any(amount == 0 or (by == "components" and amount != int(amount)) for amount in amounts):
        wanted = "a share above 0" if by == "variance" else "a number of components, 1 or more"
        raise DeclarationError(keys, f"wants {wanted}; has {shown(own)}")
    centered = value.get("centered", ["tokens"])
    axes = () if centered in ([], ()) else axes_of(("change", "centered"), centered, AXES[1:])
    return {"amounts": amounts, "by": by, "centered": axes}


def _amounts(
    keys: tuple[str, ...],
    value: Any,
    each: tuple[str, ...],
    wanted: str,
    *,
    least: float | None = None,
    most: float | None = None,
) -> tuple[float, ...]:
    several = isinstance(value, list | tuple)
    numbers = list(value) if several else [value]
    for number in numbers:
        if (
            not isinstance(number, Real)
            or isinstance(number, bool)
            or not isfinite(number)
            or (least is not None and float(number) < least)
            or (most is not None and float(number) > most)
        ):
            raise DeclarationError(keys, f"wants {wanted}, or a list; has {shown(number)}")
    _fits_each(keys, several, "amount", each)
    if not numbers:
        raise DeclarationError(keys, f"wants {wanted}, or a list; has an empty one")
    return tuple(each_once(keys, map(float, numbers)))


def _seeds(keys: tuple[str, ...], value: Any, each: tuple[str, ...]) -> tuple[int, ...]:
    several = isinstance(value, list | tuple)
    _fits_each(keys, several, "seed", each)
    seeds = whole_numbers(
        keys, value if several else [value], 0, "a seed, 0 to 4294967295, or a list"
    )
    if max(seeds) > _LARGEST_SEED:
        raise DeclarationError(keys, f"wants a seed, 0 to {_LARGEST_SEED}; has {max(seeds)}")
    return seeds


def _fits_each(keys: tuple[str, ...], several: bool, name: str, each: tuple[str, ...]) -> None:
    if several and name not in each:
        raise DeclarationError(keys, f"is a list, but `each` has no {name}; add it there")
    if not several and name in each:
        raise DeclarationError(keys, f"is no list, but `each` has {name}; write a list")


def _pairs(keys: tuple[str, ...], value: Any) -> tuple[tuple[int, int], ...]:
    wanted = "a list of pairs of text numbers, the receiving text first, as in [[0, 1]]"
    if not isinstance(value, list | tuple) or not value:
        raise DeclarationError(keys, f"wants {wanted}; has {shown(value)}")
    for pair in value:
        if (
            not isinstance(pair, list | tuple)
            or len(pair) != 2
            or not all(is_whole(n, 0) for n in pair)
        ):
            raise DeclarationError(keys, f"wants {wanted}; has {shown(pair)}")
    return tuple(each_once(keys, [tuple(pair) for pair in value]))


def _vector(keys: tuple[str, ...], value: Any) -> Any:
    if isinstance(value, Mapping):
        refuse_unknown(keys, value, ("texts", "tokens"))
        texts = value.get("texts")
        if (
            not isinstance(texts, list | tuple)
            or len(texts) != 2
            or not all(is_whole(n, 0) for n in texts)
        ):
            raise DeclarationError((*keys, "texts"), f"wants two text numbers; has {shown(texts)}")
        texts = tuple(each_once((*keys, "texts"), texts))
        return Vector(texts, tokens_of((*keys, "tokens"), value.get("tokens", "last")))
    found = statistics_variable(keys, value)
    if found is None:
        raise DeclarationError(
            keys, f"wants a statistic's variable, or {{texts: [a, b]}}; has {shown(value)}"
        )
    return found
