"""Values that the keys of a declaration take.

Each function takes the keys that a value stands under, and the value as a config or a caller says
it; it returns what is meant, or raises a DeclarationError.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from re import fullmatch
from typing import Any, TypeGuard

from microtome.errors import in_short, nearest
from microtome.interventions.declaration import Chosen, DeclarationError, Layers, Reference, Tokens
from microtome.options import SHARE
from microtome.sites import SITES


def refuse_unknown(keys: tuple[str, ...], entry: Any, known: Sequence[str]) -> None:
    """Refuse what is no mapping of known keys."""
    if not isinstance(entry, Mapping):
        raise DeclarationError(keys, f"wants the keys {', '.join(known)}; has {shown(entry)}")
    for key in entry:
        if key not in known:
            raise DeclarationError(
                (*keys, str(key)), f"unknown key; {nearest(str(key), list(known))}"
            )


def shown(value: Any) -> str:
    """A value as messages show it."""
    return in_short(repr(value), width=60)


def site_of(keys: tuple[str, ...], value: Any) -> str:
    """The name of a block's site."""
    if not isinstance(value, str) or value not in SITES:
        raise DeclarationError(
            keys, f"no site {shown(value)} of a block; {nearest(str(value), list(SITES))}"
        )
    return value


def one_of(keys: tuple[str, ...], value: Any, known: Sequence[str]) -> str:
    """One of some words."""
    if not isinstance(value, str) or value not in known:
        raise DeclarationError(keys, f"wants {' or '.join(known)}; has {shown(value)}")
    return value


def each_once(keys: tuple[str, ...], values: Iterable[Any]) -> Iterator[Any]:
    """The values, of which none may be there twice."""
    seen = set()
    for value in values:
        if value in seen:
            raise DeclarationError(keys, f"has {value!r} twice; take one out")
        seen.add(value)
        yield value


def is_whole(value: Any, least: int) -> TypeGuard[int]:
    """Whether a value is a whole number, and not too small."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def whole_numbers(keys: tuple[str, ...], value: Any, least: int, wanted: str) -> tuple[int, ...]:
    """Whole numbers, each once."""
    if isinstance(value, list | tuple | range) and value and all(is_whole(n, least) for n in value):
        return tuple(each_once(keys, map(int, value)))
    raise DeclarationError(keys, f"wants {wanted}; has {shown(value)}")


def layers_of(keys: tuple[str, ...], value: Any) -> Layers:
    """Layers by number or by a share of the depth; None for all."""
    if isinstance(value, str) and value == "all":
        return None
    listed = isinstance(value, list | tuple | range) and value
    if not listed or not all(is_whole(layer, 0) or _is_share(layer) for layer in value):
        wanted = "`all` or a list of layers, as in [4, 20%]"
        raise DeclarationError(keys, f"wants {wanted}; has {shown(value)}")
    found = each_once(keys, (layer if _is_share(layer) else int(layer) for layer in value))
    return tuple(sorted(found, key=lambda layer: (_is_share(layer), layer)))


def _is_share(layer: Any) -> bool:
    return isinstance(layer, str) and fullmatch(SHARE, layer) is not None


def chosen_of(keys: tuple[str, ...], value: Any) -> Chosen:
    """Numbers, or a statistic's variable; None for all."""
    if isinstance(value, str) and value == "all":
        return None
    found = statistics_variable(keys, value)
    wanted = "`all`, a list of numbers, or a statistic's variable, as in t_tests.significant"
    return whole_numbers(keys, value, 0, wanted) if found is None else found


def statistics_variable(keys: tuple[str, ...], value: Any) -> Any:
    """A statistic's variable, by its name or itself; None where the value is neither."""
    if isinstance(value, str):
        statistic, _, variable = value.rpartition(".")
        if not statistic:
            raise DeclarationError(
                keys,
                f"wants a statistic's variable, as in t_tests.significant; has {shown(value)}",
            )
        return Reference(statistic, variable)
    return value if hasattr(value, "dims") and hasattr(value, "dtype") else None


def tokens_of(keys: tuple[str, ...], value: Any) -> Tokens:
    """A choice of tokens."""
    wanted = "wants all, last, word, mask, a list of positions, or {from: a position, word or mask}"
    if isinstance(value, Mapping):
        refuse_unknown(keys, value, ("from",))
        start = value.get("from")
        if start in ("word", "mask"):
            return Tokens(start, onwards=True)
        if is_whole(start, -(10**9)):
            return Tokens("positions", (start,), onwards=True)
        raise DeclarationError(
            (*keys, "from"), f"wants a position, word or mask; has {shown(start)}"
        )
    if isinstance(value, str):
        if value in ("all", "last", "word", "mask"):
            return Tokens(value)
        raise DeclarationError(keys, f"{wanted}; has {shown(value)}")
    return Tokens("positions", whole_numbers(keys, value, -(10**9), wanted.removeprefix("wants ")))


def axes_of(keys: tuple[str, ...], value: Any, known: Sequence[str]) -> tuple[str, ...]:
    """One or several of some words, each once."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names:
        raise DeclarationError(keys, f"wants {', '.join(known)}, or a list; has {shown(value)}")
    return tuple(each_once(keys, [one_of(keys, name, known) for name in names]))
