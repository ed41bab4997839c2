"""The reading of a declaration, from a config or from keyword arguments.

Whatever is wrong with a declaration in itself is told here, before a model or a text is looked at;
`microtome.interventions.fit` tells what does not fit these.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isfinite
from numbers import Integral, Real
from re import fullmatch
from typing import Any

from microtome.errors import in_short, nearest
from microtome.interventions.declaration import (
    AXES,
    CHANGES,
    KEPT,
    PREDICTIONS,
    VARYING,
    Change,
    Chosen,
    DeclarationError,
    Intervention,
    Layers,
    Read,
    Reference,
    SiteRead,
    Tokens,
    Vector,
)
from microtome.options import SHARE
from microtome.sites import ATTENTION_SITES, SITES

_LARGEST_SEED = 2**32 - 1
#: Why no attention site is changed or read.
_INSIDE = "it is made inside the attention function; take q, k, v or z"

KEYS = ("site", "each", "layers", "heads", "neurons", "tokens", "change", "read")


def declared(entry: Mapping[str, Any]) -> Intervention:
    """Read a declaration.

    Args:
        entry: what the config, or the caller, says by key; without `stimuli`.

    Raises:
        DeclarationError: a key that is missing or unknown, a value that means nothing or would be
            ignored.
    """
    _known((), entry, KEYS)
    entry = {key: _plain(value) for key, value in entry.items()}
    for key in ("site", "change", "read"):
        if key not in entry:
            raise DeclarationError(
                (), f"the key {key!r} is missing; docs/interventions.md says what it is"
            )
    site = _site(("site",), entry["site"])
    if site in ATTENTION_SITES:
        raise DeclarationError(("site",), f"{site} cannot be changed, {_INSIDE}")
    if site == "router":  # experts are chosen before the router returns
        raise DeclarationError(("site",), "router cannot be changed, only read; take ln2_out")
    each = _each(entry.get("each", []))
    heads = _chosen(("heads",), entry.get("heads", "all"))
    neurons = _neurons(entry.get("neurons", "all"))
    change = _change(entry["change"], each)
    if not {"n_heads", "n_kv_heads"} & set(SITES[site]):
        asking = {
            "each": "head" in each,
            "heads": heads is not None,
            "change": "heads" in change.over,
        }
        for key in (key for key, asks in asking.items() if asks):
            raise DeclarationError((key,), f"{site} has no heads; {_with_heads()} have")
    if "head" in each and not (heads is None or isinstance(heads, tuple)):
        raise DeclarationError(
            ("heads",),
            "wants `all` or numbers where `each` has head; a statistic's heads are one case",
        )
    if isinstance(neurons, dict) and "neurons" not in each:
        raise DeclarationError(("neurons",), "has groups, but `each` has no neurons; add it there")
    if "neurons" in each and not isinstance(neurons, dict | tuple):
        raise DeclarationError(
            ("neurons",), "wants numbers, or groups by name, where `each` has neurons"
        )
    if "pair" in each and change.kind != "patch":
        raise DeclarationError(
            ("each",), "has pair, but only `patch` has pairs of texts; take it out"
        )
    tokens = _tokens(("tokens",), entry.get("tokens", "all"))
    _refuse_single(change, each, heads, neurons, tokens)
    return Intervention(
        site=site,
        each=each,
        layers=_layers(("layers",), entry.get("layers", "all")),
        heads=heads,
        neurons=neurons,
        tokens=tokens,
        change=change,
        read=_read(entry["read"]),
    )


def _plain(value: Any) -> Any:
    """What numpy and Python write in other ways than a config does, as a config does."""
    if isinstance(value, Mapping) and not hasattr(value, "dims"):
        return {key: _plain(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(held) for held in value]
    if isinstance(value, range):
        return list(value)
    if hasattr(value, "tolist") and not hasattr(value, "dims"):  # a config's check knows no numpy
        return value.tolist()
    return value


def _refuse_single(
    change: Change, each: tuple[str, ...], heads: Chosen, neurons: Any, tokens: Tokens
) -> None:
    """Refuse a change along axes of which a case has one value: nothing would change."""
    one_token = tokens.kind == "last" or (len(tokens.positions) == 1 and not tokens.onwards)
    single = {
        "tokens": "position" in each or one_token,
        "heads": "head" in each or (isinstance(heads, tuple) and len(heads) == 1),
        "neurons": isinstance(neurons, tuple) and ("neurons" in each or len(neurons) == 1),
    }
    along = ("tokens",) if change.kind == "project" else change.over
    if along and all(single.get(axis, False) for axis in along):
        raise DeclarationError(
            ("change", change.kind),
            f"changes nothing along {' and '.join(along)}, of which each case has one; choose more",
        )


def _with_heads() -> str:
    return ", ".join(
        site
        for site, dimensions in SITES.items()
        if site not in ATTENTION_SITES and {"n_heads", "n_kv_heads"} & set(dimensions)
    )


def _known(keys: tuple[str, ...], entry: Any, known: Sequence[str]) -> None:
    if not isinstance(entry, Mapping):
        raise DeclarationError(keys, f"wants the keys {', '.join(known)}; has {_shown(entry)}")
    for key in entry:
        if key not in known:
            raise DeclarationError(
                (*keys, str(key)), f"unknown key; {nearest(str(key), list(known))}"
            )


def _shown(value: Any) -> str:
    return in_short(repr(value), width=60)


def _site(keys: tuple[str, ...], value: Any) -> str:
    if not isinstance(value, str) or value not in SITES:
        raise DeclarationError(
            keys, f"no site {_shown(value)} of a block; {nearest(str(value), list(SITES))}"
        )
    return value


def _one_of(keys: tuple[str, ...], value: Any, known: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in known:
        raise DeclarationError(keys, f"wants {' or '.join(known)}; has {_shown(value)}")
    return value


def _each(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise DeclarationError(
            ("each",), f"wants a list of {', '.join(VARYING)}; has {_shown(value)}"
        )
    for name in value:
        if name not in VARYING:
            raise DeclarationError(
                ("each",), f"{name!r} does not vary; {nearest(name, list(VARYING))}"
            )
    return tuple(_once(("each",), value))


def _once(keys: tuple[str, ...], values: Iterable[Any]) -> Iterator[Any]:
    seen = set()
    for value in values:
        if value in seen:
            raise DeclarationError(keys, f"has {value!r} twice; take one out")
        seen.add(value)
        yield value


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= least


def _numbers(keys: tuple[str, ...], value: Any, least: int, wanted: str) -> tuple[int, ...]:
    """Whole numbers, each once."""
    if isinstance(value, list | tuple | range) and value and all(_whole(n, least) for n in value):
        return tuple(_once(keys, map(int, value)))
    raise DeclarationError(keys, f"wants {wanted}; has {_shown(value)}")


def _layers(keys: tuple[str, ...], value: Any) -> Layers:
    if isinstance(value, str) and value == "all":
        return None
    listed = isinstance(value, list | tuple | range) and value
    if not listed or not all(_whole(layer, 0) or _is_share(layer) for layer in value):
        wanted = "`all` or a list of layers, as in [4, 20%]"
        raise DeclarationError(keys, f"wants {wanted}; has {_shown(value)}")
    found = _once(keys, (layer if _is_share(layer) else int(layer) for layer in value))
    return tuple(sorted(found, key=lambda layer: (_is_share(layer), layer)))


def _is_share(layer: Any) -> bool:
    return isinstance(layer, str) and fullmatch(SHARE, layer) is not None


def _chosen(keys: tuple[str, ...], value: Any) -> Chosen:
    if isinstance(value, str) and value == "all":
        return None
    found = _from_statistic(keys, value)
    wanted = "`all`, a list of numbers, or a statistic's variable, as in t_tests.significant"
    return _numbers(keys, value, 0, wanted) if found is None else found


def _from_statistic(keys: tuple[str, ...], value: Any) -> Any:
    """A statistic's variable, by its name or itself; None where the value is neither."""
    if isinstance(value, str):
        statistic, _, variable = value.rpartition(".")
        if not statistic:
            raise DeclarationError(
                keys,
                f"wants a statistic's variable, as in t_tests.significant; has {_shown(value)}",
            )
        return Reference(statistic, variable)
    return value if hasattr(value, "dims") and hasattr(value, "dtype") else None


def _neurons(value: Any) -> Chosen | dict[str, Chosen]:
    if not isinstance(value, Mapping):
        return _chosen(("neurons",), value)
    if not value:
        raise DeclarationError(("neurons",), "has no groups; name some, or write `all`")
    groups = {str(name): _chosen(("neurons", str(name)), group) for name, group in value.items()}
    for name, group in groups.items():
        if group is None:
            raise DeclarationError(("neurons", name), "wants numbers or a statistic's variable")
    return groups


def _tokens(keys: tuple[str, ...], value: Any) -> Tokens:
    wanted = "wants all, last, word, mask, a list of positions, or {from: a position, word or mask}"
    if isinstance(value, Mapping):
        _known(keys, value, ("from",))
        start = value.get("from")
        if start in ("word", "mask"):
            return Tokens(start, onwards=True)
        if _whole(start, -(10**9)):
            return Tokens("positions", (start,), onwards=True)
        raise DeclarationError(
            (*keys, "from"), f"wants a position, word or mask; has {_shown(start)}"
        )
    if isinstance(value, str):
        if value in ("all", "last", "word", "mask"):
            return Tokens(value)
        raise DeclarationError(keys, f"{wanted}; has {_shown(value)}")
    return Tokens("positions", _numbers(keys, value, -(10**9), wanted.removeprefix("wants ")))


def _change(value: Any, each: tuple[str, ...]) -> Change:
    """Read the change; what its cases differ in has to be in `each`."""
    if callable(value):
        value = {"use": value}
    if isinstance(value, str):
        value = {value: None}
    known = ", ".join(CHANGES)
    if not isinstance(value, Mapping):
        raise DeclarationError(("change",), f"wants one of {known}; has {_shown(value)}")
    kinds = [key for key in value if key in CHANGES]
    if len(kinds) != 1:
        remedy = nearest(str(next(iter(value), "")), list(CHANGES)) if not kinds else "name one"
        raise DeclarationError(("change",), f"wants one of {known}; {remedy}")
    [kind] = kinds
    _known(("change",), value, (kind, *CHANGES[kind]))
    own, found = value[kind], {}
    keys = ("change", kind)
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
            found["over"] = _axes(keys, own, axes)
        case "project":
            found |= _projection(own, value, each)
        case "use":
            if not (callable(own) or (isinstance(own, str) and own.isidentifier())):
                raise DeclarationError(
                    keys, f"wants the name of a function of changes.py; has {_shown(own)}"
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
            _one_of(keys, value, ("sd",))
            return {"of_sd": True}
        case "by" if kind != "project":
            return {"by": _one_of(keys, value, ("value", "magnitude"))}
        case "vector":
            return {"vector": _vector(keys, value)}
        case "from":
            if not _whole(value, -(10**9)):
                raise DeclarationError(
                    keys, f"wants a position of the giving text; has {_shown(value)}"
                )
            return {"position": value}
        case "align":
            return {"align": _one_of(keys, value, ("start", "end"))}
    return {}


def _projection(own: Any, value: Mapping[str, Any], each: tuple[str, ...]) -> dict[str, Any]:
    by = _one_of(("change", "by"), value.get("by", "components"), ("components", "variance"))
    keys = ("change", "project")
    if by == "variance":
        amounts = _amounts(keys, own, each, "a share above 0, at most 1", least=0, most=1)
    else:
        amounts = _amounts(keys, own, each, "a number of components, 1 or more", least=1)
    if any(amount == 0 or (by == "components" and amount != int(amount)) for amount in amounts):
        wanted = "a share above 0" if by == "variance" else "a number of components, 1 or more"
        raise DeclarationError(keys, f"wants {wanted}; has {_shown(own)}")
    centered = value.get("centered", ["tokens"])
    axes = () if centered in ([], ()) else _axes(("change", "centered"), centered, AXES[1:])
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
            or (least is not None and number < least)
            or (most is not None and number > most)
        ):
            raise DeclarationError(keys, f"wants {wanted}, or a list; has {_shown(number)}")
    _fits_each(keys, several, "amount", each)
    if not numbers:
        raise DeclarationError(keys, f"wants {wanted}, or a list; has an empty one")
    return tuple(_once(keys, map(float, numbers)))


def _seeds(keys: tuple[str, ...], value: Any, each: tuple[str, ...]) -> tuple[int, ...]:
    several = isinstance(value, list | tuple)
    _fits_each(keys, several, "seed", each)
    seeds = _numbers(keys, value if several else [value], 0, "a seed, 0 to 4294967295, or a list")
    if max(seeds) > _LARGEST_SEED:
        raise DeclarationError(keys, f"wants a seed, 0 to {_LARGEST_SEED}; has {max(seeds)}")
    return seeds


def _fits_each(keys: tuple[str, ...], several: bool, name: str, each: tuple[str, ...]) -> None:
    if several and name not in each:
        raise DeclarationError(keys, f"is a list, but `each` has no {name}; add it there")
    if not several and name in each:
        raise DeclarationError(keys, f"is no list, but `each` has {name}; write a list")


def _axes(keys: tuple[str, ...], value: Any, known: Sequence[str]) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names:
        raise DeclarationError(keys, f"wants {', '.join(known)}, or a list; has {_shown(value)}")
    return tuple(_once(keys, [_one_of(keys, name, known) for name in names]))


def _pairs(keys: tuple[str, ...], value: Any) -> tuple[tuple[int, int], ...]:
    wanted = "a list of pairs of text numbers, the receiving text first, as in [[0, 1]]"
    if not isinstance(value, list | tuple) or not value:
        raise DeclarationError(keys, f"wants {wanted}; has {_shown(value)}")
    for pair in value:
        if (
            not isinstance(pair, list | tuple)
            or len(pair) != 2
            or not all(_whole(n, 0) for n in pair)
        ):
            raise DeclarationError(keys, f"wants {wanted}; has {_shown(pair)}")
    return tuple(_once(keys, [tuple(pair) for pair in value]))


def _vector(keys: tuple[str, ...], value: Any) -> Any:
    if isinstance(value, Mapping):
        _known(keys, value, ("texts", "tokens"))
        texts = value.get("texts")
        if (
            not isinstance(texts, list | tuple)
            or len(texts) != 2
            or not all(_whole(n, 0) for n in texts)
        ):
            raise DeclarationError((*keys, "texts"), f"wants two text numbers; has {_shown(texts)}")
        texts = tuple(_once((*keys, "texts"), texts))
        return Vector(texts, _tokens((*keys, "tokens"), value.get("tokens", "last")))
    found = _from_statistic(keys, value)
    if found is None:
        raise DeclarationError(
            keys, f"wants a statistic's variable, or {{texts: [a, b]}}; has {_shown(value)}"
        )
    return found


def _read(value: Any) -> Read:
    _known(("read",), value, (*PREDICTIONS, "targets", "top", "loss", *SITES))
    predictions = tuple(name for name in PREDICTIONS if name in value)
    spans = [_tokens(("read", name), value[name]) for name in predictions]
    for name, span in zip(predictions, spans, strict=True):
        if span != spans[0]:
            raise DeclarationError(
                ("read", name),
                f"reads other tokens than {predictions[0]}; read the same, or declare a second "
                "intervention",
            )
    whole = [name for name in predictions if name != "kl"]
    targets, top = value.get("targets", ()), value.get("top", 0)
    for key in ("targets", "top"):
        if key in value and not whole:
            raise DeclarationError(
                ("read", key), "means nothing without logits or log_probabilities; add one"
            )
    if (
        "targets" in value
        and targets != "clean"
        and (
            not isinstance(targets, list | tuple)
            or not targets
            or not all(isinstance(target, str) and target for target in targets)
        )
    ):
        raise DeclarationError(
            ("read", "targets"),
            f"wants `clean`, or a list of texts, each one token; has {_shown(targets)}",
        )
    if "top" in value and not _whole(top, 1):
        raise DeclarationError(
            ("read", "top"), f"wants a whole number, 1 or more; has {_shown(top)}"
        )
    loss = value.get("loss", False)
    if not isinstance(loss, bool):
        raise DeclarationError(("read", "loss"), f"wants true; has {_shown(loss)}")
    sites = {site: _site_read(("read", site), value[site]) for site in SITES if site in value}
    for site in sites:
        if site in ATTENTION_SITES:
            raise DeclarationError(("read", site), f"an intervention cannot read it, {_INSIDE}")
    if (
        len({read.tokens for read in sites.values()}) > 1
        or len({r.layers for r in sites.values()}) > 1
    ):
        raise DeclarationError(
            ("read",),
            "reads sites at several choices of tokens or layers; declare an intervention for each",
        )
    if not (predictions or sites or loss):
        raise DeclarationError(
            ("read",), f"reads nothing; name {', '.join(PREDICTIONS)}, loss or a site"
        )
    return Read(
        predictions,
        spans[0] if spans else Tokens(),
        targets if targets == "clean" else tuple(_once(("read", "targets"), targets)),
        top,
        loss,
        sites,
    )


def _site_read(keys: tuple[str, ...], value: Any) -> SiteRead:
    if not isinstance(value, Mapping) or "from" in value:
        return SiteRead(_tokens(keys, value), None, ("difference",))
    _known(keys, value, ("tokens", "layers", "as"))
    kept = _axes((*keys, "as"), value.get("as", "difference"), KEPT)
    layers = _layers((*keys, "layers"), value.get("layers", "all"))
    return SiteRead(_tokens((*keys, "tokens"), value.get("tokens", "all")), layers, kept)
