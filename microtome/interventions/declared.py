"""The reading of a declaration, from a config or from keyword arguments.

Whatever is wrong with a declaration in itself is told here, before a model or a text is looked at;
`microtome.interventions.fit` tells what does not fit these.
"""

from collections.abc import Mapping
from typing import Any

from microtome.errors import nearest
from microtome.interventions.declaration import (
    COMPARED,
    KEPT,
    PREDICTIONS,
    VARYING,
    Change,
    Chosen,
    DeclarationError,
    Intervention,
    Read,
    SiteRead,
    Tokens,
)
from microtome.interventions.declared_change import change_of
from microtome.interventions.values import (
    axes_of,
    chosen_of,
    each_once,
    is_whole,
    layers_of,
    refuse_unknown,
    shown,
    site_of,
    tokens_of,
)
from microtome.sites import ATTENTION_SITES, SITES

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
    refuse_unknown((), entry, KEYS)
    entry = {key: _plain(value) for key, value in entry.items()}
    for key in ("site", "change", "read"):
        if key not in entry:
            raise DeclarationError(
                (), f"the key {key!r} is missing; docs/interventions.md says what it is"
            )
    site = site_of(("site",), entry["site"])
    if site in ATTENTION_SITES:
        raise DeclarationError(("site",), f"{site} cannot be changed, {_INSIDE}")
    if site == "router":  # experts are chosen before the router returns
        raise DeclarationError(("site",), "router cannot be changed, only read; take ln2_out")
    each = _each(entry.get("each", []))
    heads = chosen_of(("heads",), entry.get("heads", "all"))
    neurons = _neurons(entry.get("neurons", "all"))
    change = change_of(entry["change"], each)
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
    tokens = tokens_of(("tokens",), entry.get("tokens", "all"))
    _refuse_single(change, each, heads, neurons, tokens)
    return Intervention(
        site=site,
        each=each,
        layers=layers_of(("layers",), entry.get("layers", "all")),
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


def _each(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise DeclarationError(
            ("each",), f"wants a list of {', '.join(VARYING)}; has {shown(value)}"
        )
    for name in value:
        if name not in VARYING:
            raise DeclarationError(
                ("each",), f"{name!r} does not vary; {nearest(name, list(VARYING))}"
            )
    return tuple(each_once(("each",), value))


def _neurons(value: Any) -> Chosen | dict[str, Chosen]:
    if not isinstance(value, Mapping):
        return chosen_of(("neurons",), value)
    if not value:
        raise DeclarationError(("neurons",), "has no groups; name some, or write `all`")
    groups = {str(name): chosen_of(("neurons", str(name)), group) for name, group in value.items()}
    for name, group in groups.items():
        if group is None:
            raise DeclarationError(("neurons", name), "wants numbers or a statistic's variable")
    return groups


def _read(value: Any) -> Read:
    refuse_unknown(("read",), value, (*PREDICTIONS, "targets", "top", "loss", *SITES))
    predictions = tuple(name for name in PREDICTIONS if name in value)
    spans = [tokens_of(("read", name), value[name]) for name in predictions]
    for name, span in zip(predictions, spans, strict=True):
        if span != spans[0]:
            raise DeclarationError(
                ("read", name),
                f"reads other tokens than {predictions[0]}; read the same, or declare a second "
                "intervention",
            )
    whole = [name for name in predictions if name not in COMPARED]
    targets, top = value.get("targets", ()), value.get("top", 0)
    for key in ("targets", "top"):
        if key in value and not whole:
            raise DeclarationError(
                ("read", key), "means nothing without logits or log_probabilities; add one"
            )
    if (
        "targets" in value
        and targets not in ("clean", "next")
        and (
            not isinstance(targets, list | tuple)
            or not targets
            or not all(isinstance(target, str) and target for target in targets)
        )
    ):
        raise DeclarationError(
            ("read", "targets"),
            f"wants `clean`, `next`, or a list of texts, each one token; has {shown(targets)}",
        )
    if "top" in value and not is_whole(top, 1):
        raise DeclarationError(
            ("read", "top"), f"wants a whole number, 1 or more; has {shown(top)}"
        )
    loss = value.get("loss", False)
    if not isinstance(loss, bool):
        raise DeclarationError(("read", "loss"), f"wants true; has {shown(loss)}")
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
        targets if isinstance(targets, str) else tuple(each_once(("read", "targets"), targets)),
        top,
        loss,
        sites,
    )


def _site_read(keys: tuple[str, ...], value: Any) -> SiteRead:
    if not isinstance(value, Mapping) or "from" in value:
        return SiteRead(tokens_of(keys, value), None, ("difference",))
    refuse_unknown(keys, value, ("tokens", "layers", "as"))
    kept = axes_of((*keys, "as"), value.get("as", "difference"), KEPT)
    layers = layers_of((*keys, "layers"), value.get("layers", "all"))
    return SiteRead(tokens_of((*keys, "tokens"), value.get("tokens", "all")), layers, kept)
