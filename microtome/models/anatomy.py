"""Where a model's sites lie inside its blocks, found by what passes through its modules.

A block of each kind is run once on a few random tokens, and its sites are found by value
(`microtome.models.block`). Neither the name of an architecture nor those of its modules matter: one
that transformers adds later needs no entry. Where nothing has a site's values, the model has no
such site, and the reason is kept.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from microtome.models.architectures import EXPLICIT
from microtome.models.block import NO_ATTENTION, ONE_PART, Block
from microtome.models.calls import Call
from microtome.models.mapped import MappedModel
from microtome.models.noting import LENGTH, TEXTS, Noting, as_rows
from microtome.models.taps import Sites, Tap
from microtome.sites import SITES


@torch.no_grad()
def find_sites(checkpoint: Path) -> Sites:
    """Find the sites of a model.

    Args:
        checkpoint: a checkpoint folder as `microtome.models.fetch.fetch` makes it.

    Raises:
        MicrotomeError: weights that are damaged or do not fit the config, or a model that cannot
            be run block by block.
    """
    model = MappedModel(checkpoint)
    hidden, calls = model.record(_tokens(model), model.sizes["n_layers"])
    explicit = EXPLICIT.get(model.config.get_text_config().model_type, {})
    found = []
    for layers in _kinds(model):
        try:
            noted, before, after = _run(model, layers[0], hidden, calls)
        except (KeyError, RuntimeError, TypeError):
            # It may want what earlier blocks leave for it.
            for earlier in range(layers[0]):
                _run(model, earlier, hidden, calls)
            noted, before, after = _run(model, layers[0], hidden, calls)
        block = Block(model, noted, before, after)
        block.find()
        block.enter(explicit)
        found.append((layers, block))
    return _merged(model, found)


def _tokens(model: MappedModel) -> Tensor:
    """Random token ids, (text, position), none of them a special one."""
    config = model.config.get_text_config().to_dict()
    special: set[object] = set()
    for name, value in config.items():
        if name.endswith("_token_id"):
            special |= set(value) if isinstance(value, list) else {value}
    ordinary = [token for token in range(min(model.sizes["d_vocab"], 4096)) if token not in special]
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(ordinary), (TEXTS, LENGTH), generator=generator)
    return torch.tensor(ordinary)[chosen]


def _kinds(model: MappedModel) -> list[list[int]]:
    """The layers of each kind of block: those with the same modules, used in the same way."""
    types = getattr(model.config.get_text_config(), "layer_types", None) or []
    kinds: dict[object, list[int]] = {}
    for layer, block in enumerate(model.blocks):
        made_of = tuple(
            (name, type(module).__name__, *(tuple(p.shape) for p in module.parameters(False)))
            for name, module in block.named_modules()
        )
        kinds.setdefault((*types[layer : layer + 1], made_of), []).append(layer)
    return list(kinds.values())


def _run(
    model: MappedModel, layer: int, hidden: Tensor, calls: Sequence[Call]
) -> tuple[Noting, Tensor, Tensor]:
    """Run a block on what enters the first one; what was noted, its input and its output."""
    noted = Noting()
    with noted.of(model.blocks[layer]):
        left = model.run_block(layer, model.block_weights(layer), hidden.clone(), calls[layer])
    before, after = as_rows(model.stream(hidden)), as_rows(model.stream(left))
    assert before is not None and after is not None  # `record` has checked their shapes
    return noted, before, after


def _merged(model: MappedModel, found: Sequence[tuple[list[int], "Block"]]) -> Sites:
    """The sites of a model, from those of each kind of its blocks."""
    taps: dict[str, Tap] = {}
    absent: dict[str, str] = {}
    for site in SITES:
        having = [(layers, block.taps[site]) for layers, block in found if site in block.taps]
        if not having:
            reasons = [block.absent[site] for _, block in found if site in block.absent]
            if reasons:
                # Blocks of one part lack many sites that others may lack for another reason.
                reasons.sort(key=lambda why: why in (NO_ATTENTION, ONE_PART))
                absent[site] = reasons[0]
            continue
        layers = sorted(layer for of_kind, _ in having for layer in of_kind)
        tap = having[0][1]._replace(
            path="|".join(dict.fromkeys(own.path for _, own in having)),
            layers=None if len(layers) == len(model.blocks) else tuple(layers),
        )
        elsewhere = [
            of_kind[0]
            for of_kind, own in having
            if own._replace(path=tap.path, layers=tap.layers) != tap
            or tap.path_in(model.blocks[of_kind[0]]) != own.path
        ]
        if elsewhere:
            absent[site] = f"it lies elsewhere in layer {elsewhere[0]} than in {having[0][0][0]}"
        else:
            taps[site] = tap
    return Sites(taps, absent)
