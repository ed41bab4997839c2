"""How many changed texts an intervention runs and how much it keeps of each, for its cost.

Only the lengths of the texts are known here, and statistics are not: a word or a mask token counts
as one token.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from microtome.interventions.declaration import COMPARED, Intervention, Tokens
from microtome.options import layer_numbers
from microtome.sites import SITES, shape


def extent(
    intervention: Intervention, sizes: Mapping[str, int], lengths: Sequence[int]
) -> dict[str, Any]:
    """What `microtome.sweeps.cost.intervention` asks of an intervention.

    Args:
        intervention: the intervention.
        sizes: the model's dimensions, as `microtome.models.checkpoint.sizes` names them.
        lengths: tokens of each text.

    Returns:
        `branches`: how many changed texts join the sweep, by the block that they join it at and
        their number of tokens; `predicted`: of each text the tokens whose predictions are
        computed, at most; `kept`: the numbers that are kept of each text, at most; `beside`: the
        numbers that are held of each text in the clean run, at most.
    """
    change, each = intervention.change, intervention.each
    layers = layer_numbers(intervention.layers, sizes["n_layers"])
    texts = [lengths[receiver] for receiver, _ in change.pairs] or lengths
    cases = {"amount": len(change.amounts), "seed": len(change.seeds)}
    heads, neurons = intervention.heads, intervention.neurons
    if "head" in each:
        n_heads = sizes[SITES[intervention.site][0]]
        cases["head"] = len(heads) if isinstance(heads, tuple) else n_heads
    if isinstance(neurons, dict | tuple):
        cases["neurons"] = len(neurons)
    branches: Counter[tuple[int, int]] = Counter()
    for length in texts:
        cases["position"] = _count(intervention.tokens, length)
        count = prod(cases[name] for name in each if name not in ("layer", "pair"))
        for first in layers if "layer" in each else layers[:1]:
            branches[first, length] += count
    longest, read = max(texts), intervention.read
    predicted = _count(read.tokens, longest) if read.predictions else 0
    sites = {*read.sites, intervention.site}
    widths = sum(prod(shape(site, sizes)) for site in sites)
    compares = any(name in COMPARED for name in read.predictions)
    return {
        "branches": branches,
        "beside": max(lengths) * widths + predicted * sizes["d_vocab"] * compares,
        "predicted": longest if read.loss else predicted,
        "kept": predicted * _per_token(intervention, sizes)
        + read.loss
        + sum(
            _count(of.tokens, longest)
            * len(layer_numbers(of.layers, sizes["n_layers"]))
            * sum(prod(shape(site, sizes)) if k == "values" else 1 for k in of.kept)
            for site, of in read.sites.items()
        ),
    }


def _per_token(intervention: Intervention, sizes: Mapping[str, int]) -> int:
    """Numbers that are kept of a prediction; the highest tokens have ids and texts too."""
    read = intervention.read
    targets = 1 if isinstance(read.targets, str) else len(read.targets)
    if not (targets or read.top):
        targets = sizes["d_vocab"]
    whole = [name for name in read.predictions if name not in COMPARED]
    compared = len(read.predictions) - len(whole)
    return len(whole) * targets + compared + (4 * read.top if whole else 0)


def _count(tokens: Tokens, length: int) -> int:
    """How many tokens of a text are meant."""
    if tokens.kind == "all":
        return length
    if not tokens.onwards:
        return len(tokens.positions) or 1
    start = tokens.positions[0] if tokens.positions else 0
    return max(1, length - start if start >= 0 else -start)
