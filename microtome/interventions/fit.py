"""Whether an intervention fits a model and texts.

What the config shows is judged before any work: layers, sites and the numbers of texts. The rest
takes the model's sizes or the texts' tokens. References to statistics pass; the DataArrays that
take their places are judged. Nothing here imports torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import inf, prod
from typing import TYPE_CHECKING, Any

from microtome.errors import MicrotomeError
from microtome.interventions.declaration import (
    DeclarationError,
    Intervention,
    Layers,
    Reference,
    Tokens,
    Vector,
)
from microtome.models.skeleton import Head, require_head
from microtome.models.taps import Tap, check_sites
from microtome.options import layer_numbers
from microtome.sites import dimensions, shape

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from microtome.interventions.cases import Text

Keys = tuple[str, ...]


def fit_model(
    intervention: Intervention,
    sizes: Mapping[str, int],
    taps: Mapping[str, Tap],
    architecture: str | None,
    head: Head,
    absent: Mapping[str, str] = {},
) -> None:
    """Refuse an intervention that a model cannot serve.

    Args:
        intervention: the intervention.
        sizes: the model's dimensions, as `microtome.models.checkpoint.sizes` names them.
        taps: where the sites lie in its blocks.
        architecture: the name of its architecture, for messages.
        head: what its head predicts.
        absent: why the model lacks other sites, by their names.

    Raises:
        DeclarationError: a site or a layer that the model lacks; predictions of a model without
            head, or the loss of one that predicts masked tokens; a head, a neuron or a number of
            highest tokens out of range; a statistic's variable of other dimensions.
    """
    fit_head(intervention, f"the {architecture!r} model", head)
    fit_layers(intervention, sizes["n_layers"])
    fit_sites(intervention, taps, architecture, sizes["n_layers"], absent)
    site = intervention.site
    *of_heads, width = dimensions(site, sizes)
    layers = layer_numbers(intervention.layers, sizes["n_layers"])
    for dimension in of_heads:
        _fit_chosen(("heads",), intervention.heads, (dimension,), sizes[dimension], layers)
    groups = intervention.neurons
    for name, chosen in groups.items() if isinstance(groups, dict) else [("", groups)]:
        keys = ("neurons", name) if name else ("neurons",)
        _fit_chosen(keys, chosen, (width, "neuron"), sizes[width], layers)
    change, vector = intervention.change, intervention.change.vector
    if hasattr(vector, "dims"):
        wanted = {name: sizes[name] for name in dimensions(site, sizes)}
        _fit_dimensions(("change", "vector"), vector, wanted, layers)
    if change.kind == "project" and change.by == "components":
        components = int(max(change.amounts))
        n_values = sizes[width] if "head" in intervention.each else prod(shape(site, sizes))
        if components > n_values:
            raise DeclarationError(
                ("change", "project"), f"no {components} components of {n_values} values of {site}"
            )
    if intervention.read.top > sizes["d_vocab"]:
        raise DeclarationError(
            ("read", "top"),
            f"wants the {intervention.read.top} highest of {sizes['d_vocab']} tokens",
        )


def fit_head(intervention: Intervention, model: str, head: Head) -> None:
    """Refuse an intervention that reads what a model's head does not predict.

    Args:
        intervention: the intervention.
        model: what messages call the model.
        head: what its head predicts.

    Raises:
        DeclarationError: predictions of a model without head; the loss or the next tokens of one
            that predicts masked tokens.
    """
    read = intervention.read
    asked = {"loss": read.loss, "targets": read.targets == "next"}
    for key in (key for key, asks in asked.items() if asks and head == "masked"):
        raise DeclarationError(
            ("read", key),
            f"is that of the next token, and {model} predicts masked ones; read targets at them",
        )
    try:
        if read.loss or read.predictions:
            require_head(model, head)
    except MicrotomeError as error:
        raise DeclarationError(("read",), str(error)) from None


def fit_sites(
    intervention: Intervention,
    taps: Mapping[str, Tap],
    architecture: str | None,
    n_layers: int,
    absent: Mapping[str, str] = {},
) -> None:
    """Refuse an intervention that changes or reads a site that a model lacks.

    Args:
        intervention: the intervention.
        taps: where the sites lie in the model's blocks.
        architecture: the name of its architecture, for messages.
        n_layers: how many layers it has.
        absent: why it lacks other sites, by their names.

    Raises:
        DeclarationError: there is such a site.
    """
    wanted: dict[Keys, tuple[str, Layers]] = {("site",): (intervention.site, intervention.layers)}
    wanted |= {("read", site): (site, of.layers) for site, of in intervention.read.sites.items()}
    for keys, (site, layers) in wanted.items():
        try:
            check_sites([site], taps, architecture, layer_numbers(layers, n_layers), absent)
        except MicrotomeError as error:
            raise DeclarationError(keys, str(error)) from None


def fit_layers(intervention: Intervention, n_layers: int) -> None:
    """Refuse an intervention that changes or reads a layer that a model lacks.

    Raises:
        DeclarationError: there is such a layer.
    """
    wanted: dict[Keys, Layers] = {("layers",): intervention.layers}
    wanted |= {("read", site, "layers"): of.layers for site, of in intervention.read.sites.items()}
    for keys, layers in wanted.items():
        _in_range(keys, "layer", layer_numbers(layers, n_layers), n_layers)


def fit_set(intervention: Intervention, n_texts: int, *, words: bool) -> None:
    """Refuse an intervention that a stimulus set cannot serve, whatever its tokens are.

    Args:
        intervention: the intervention.
        n_texts: how many texts the set has.
        words: whether they are words in a template.

    Raises:
        DeclarationError: the number of a text that is not there; a word where there are none.
    """
    change = intervention.change
    _in_range(("change", "patch"), "text", sum(change.pairs, ()), n_texts)
    if isinstance(change.vector, Vector):
        _in_range(("change", "vector", "texts"), "text", change.vector.texts, n_texts)
    for keys, tokens, _ in _tokens(intervention, range(n_texts)):
        if tokens.kind == "word" and not words:
            raise DeclarationError(
                keys, "the stimuli have no words; name a set with `template:` and `words:`"
            )


def fit_texts(intervention: Intervention, columns: "Mapping[str, np.ndarray]") -> None:
    """Refuse an intervention that texts cannot serve.

    Args:
        intervention: the intervention.
        columns: the token table's columns by name, (token,) each.

    Raises:
        DeclarationError: what `fit_set` refuses; tokens that a text lacks; a pair of texts in
            which a token has no partner; texts with unequal numbers of tokens where these make up
            one dimension; the loss of a text of one token.
    """
    from microtome.interventions.cases import texts_of  # numpy, which a config's check does without

    texts = texts_of(columns)
    fit_set(intervention, len(texts), words="in_word" in columns)
    change = intervention.change
    received = list(dict.fromkeys(receiver for receiver, _ in change.pairs)) or range(len(texts))
    places: dict[Keys, list[np.ndarray]] = {}
    for keys, tokens, of in _tokens(intervention, received):
        try:
            places[keys] = [texts[number].positions(tokens) for number in of]
        except MicrotomeError as error:
            raise DeclarationError(keys, str(error)) from None
    if "position" in intervention.each:
        _equal(("tokens",), places["tokens",], "`each` has position")
    if "texts" in change.over and "tokens" not in change.over:
        _equal(("tokens",), places["tokens",], f"the {change.kind} is over texts")
    if "pair" in intervention.each:
        for keys, found in places.items():
            if keys[0] == "read":
                _equal(keys, found, "`each` has pair")
    for receiver, giver in change.pairs:
        _fit_pair(intervention, texts[receiver], texts[giver])
    if intervention.read.loss:
        for number in received:
            if len(texts[number].ids) < 2:
                raise DeclarationError(
                    ("read", "loss"), f"text {number} is one token, which nothing predicts"
                )


def fit_targets(
    intervention: Intervention, tokenizer: "PreTrainedTokenizerBase | None"
) -> list[int]:
    """The token ids of the targets; none of those that only the clean run tells.

    Raises:
        DeclarationError: a target that is not one token of the model.
    """
    from microtome.texts.tokens import target_id  # numpy, as above

    targets = intervention.read.targets
    if isinstance(targets, str) or not targets:
        return []
    assert tokenizer is not None  # it is given where targets are
    try:
        return [target_id(tokenizer, text) for text in targets]
    except MicrotomeError as error:
        raise DeclarationError(("read", "targets"), str(error)) from None


def _tokens(
    intervention: Intervention, received: Sequence[int]
) -> Iterator[tuple[Keys, Tokens, Sequence[int]]]:
    """Tokens that are asked for, the keys that do, and the numbers of the texts that have them.

    Args:
        intervention: the intervention.
        received: the texts that are changed.
    """
    change, read = intervention.change, intervention.read
    yield ("tokens",), intervention.tokens, received
    for name in read.predictions[:1]:  # all are read at the same tokens
        yield ("read", name), read.tokens, received
    for site, of in read.sites.items():
        yield ("read", site), of.tokens, received
    if isinstance(change.vector, Vector):
        yield ("change", "vector", "tokens"), change.vector.tokens, change.vector.texts


def _fit_chosen(
    keys: Keys, chosen: Any, dimensions: Sequence[str], size: int, layers: Sequence[int]
) -> None:
    """Judge heads or neurons: numbers, or a statistic's variable."""
    if chosen is None or isinstance(chosen, Reference):
        return
    if isinstance(chosen, tuple):
        _in_range(keys, keys[0].removesuffix("s"), chosen, size)
        return
    if not chosen.isin([0, 1]).all():
        raise DeclarationError(keys, "wants a variable of true and false, or of 1 and 0")
    dimension = next((name for name in dimensions if name in chosen.dims), dimensions[0])
    _fit_dimensions(keys, chosen, {dimension: size}, layers)


def _fit_dimensions(
    keys: Keys, values: Any, wanted: Mapping[str, int], layers: Sequence[int]
) -> None:
    """Judge the dimensions of a statistic's variable; it may have `layer` besides."""
    if values.dtype.kind not in "biuf" or not (abs(values) < inf).all():
        raise DeclarationError(keys, "wants numbers; has others, NaN or infinity")
    found = dict(zip(values.dims, values.shape, strict=True))
    for name in found:
        labels = values[name].values.tolist() if name in values.coords else []
        if len(set(labels)) < len(labels) or (name != "layer" and labels != sorted(labels)):
            raise DeclarationError(keys, f"has {name} twice, or in another order than the model")
    n_layers = found.pop("layer", None)
    if found != wanted:
        said = [" × ".join(f"{name} ({n})" for name, n in of.items()) for of in (wanted, found)]
        raise DeclarationError(keys, f"wants the dimensions {said[0]}; has {said[1] or 'none'}")
    known = range(n_layers or 0)
    if "layer" in values.coords and n_layers is not None:
        known = values["layer"].values.tolist()
    for layer in layers if n_layers is not None else ():
        if layer not in known:
            raise DeclarationError(
                keys, f"has no layer {layer}, which is changed; name others in `layers`"
            )


def _fit_pair(intervention: Intervention, receiver: "Text", giver: "Text") -> None:
    """Judge whether every token that is changed has a partner in the giving text."""
    change, n_tokens, n_given = intervention.change, len(receiver.ids), len(giver.ids)
    if change.position is not None:
        if not -n_given <= change.position < n_given:
            raise DeclarationError(
                ("change", "from"),
                f"text {giver.number} has {n_given} tokens and no position {change.position}",
            )
        return
    if n_tokens == n_given:
        return
    lengths = f"text {receiver.number} has {n_tokens} tokens, text {giver.number} has {n_given}"
    if change.align is None:
        raise DeclarationError(
            ("change", "patch"), f"{lengths}; say `align: start` or `align: end`, or name another"
        )
    shift = n_given - n_tokens if change.align == "end" else 0
    for place in receiver.positions(intervention.tokens):
        if not 0 <= place + shift < n_given:
            raise DeclarationError(
                ("tokens",),
                f"{lengths}; counted from the {change.align}, token {place} has no partner; "
                "choose others",
            )


def _in_range(keys: Keys, what: str, numbers: Sequence[int], size: int) -> None:
    for number in numbers:
        if number >= size:
            raise DeclarationError(keys, f"no {what} {number}; there are 0 to {size - 1}")


def _equal(keys: Keys, places: "Sequence[np.ndarray]", why: str) -> None:
    counts = sorted({len(found) for found in places})
    if len(counts) > 1:
        raise DeclarationError(
            keys,
            f"wants as many tokens of each text, since {why}; has {counts[0]} to {counts[-1]}",
        )
