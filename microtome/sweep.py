"""The sweep: run texts through a model one block at a time and read activations as they pass.

One forward per batch, with recorders in the place of the blocks, gives the hidden state that
enters the first block and what every block is called with. Then, for each block in order: map
its weights, run every batch through it, drop them. The values are those of a full forward of
the same batch, bit for bit: the same modules run the same operations on the same numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from microtome.architectures import SITES, Tap, taps
from microtome.errors import MicrotomeError
from microtome.mapped import Call, MappedModel
from microtome.sections import Section


@dataclass(frozen=True)
class Batch:
    """Sequences of one length.

    Attributes:
        rows: their rows of the token table, (batch * position,).
        ids: their token ids, (batch, position).
    """

    rows: np.ndarray
    ids: np.ndarray


@dataclass
class _Passage:
    """A batch on its way through the model."""

    rows: np.ndarray
    ids: Tensor  # (batch, position)
    hidden: Tensor  # entering the next block, (batch, position, d_model)
    calls: list[Call]  # of every block


class _Enough(Exception):
    """Leaves the deepest block when its last site has been read."""


def batched(sequences: Sequence[np.ndarray], batch_size: int) -> list[Batch]:
    """Group sequences into batches of one length each, so that none is padded.

    Args:
        sequences: the token ids of each sequence, (position,) each, in the token table's order.
        batch_size: sequences per batch, at most.
    """
    lengths = np.array([len(ids) for ids in sequences])
    starts = np.cumsum(lengths) - lengths
    batches = []
    for length in np.unique(lengths):
        members = np.flatnonzero(lengths == length)
        for chosen in np.split(members, range(batch_size, len(members), batch_size)):
            rows = (starts[chosen, None] + np.arange(length)).ravel()
            batches.append(Batch(rows, np.stack([sequences[number] for number in chosen])))
    return batches


@torch.no_grad()
def sweep(
    checkpoint: Path,
    batches: Sequence[Batch],
    sites: Sequence[str],
    layers: Sequence[int],
    final_sites: Sequence[str] = (),
) -> Iterator[Section]:
    """Run batches through a model and yield the activations at some sites of some layers.

    Unless final sites are asked for, the sweep ends in the deepest layer asked for, after the
    last site there. It computes in float32 on the CPU.

    Args:
        checkpoint: a checkpoint folder as `microtome.fetch.fetch` makes it.
        batches: what `batched` returned.
        sites: names of `microtome.architectures.SITES`.
        layers: indices of blocks.
        final_sites: names of `microtome.architectures.FINAL_SITES`.

    Yields:
        Layer by layer in ascending order, and batch by batch within a layer, the rows of the
        token table that the batch holds and an array (rows, …) for each site; last, with None
        for a layer, the final sites.

    Raises:
        MicrotomeError: an unknown site or layer, or weights that do not fit the config.
    """
    model = MappedModel(checkpoint)
    tapped = taps(model.config, sites)
    n_layers = model.sizes["n_layers"]
    for layer in layers:
        if not 0 <= layer < n_layers:
            raise MicrotomeError(f"layer {layer}: the model has layers 0 to {n_layers - 1}")
    deepest = n_layers - 1 if final_sites else max(layers)
    passages = []
    for batch in batches:
        ids = torch.from_numpy(batch.ids).long()
        passages.append(_Passage(batch.rows, ids, *model.record(ids, deepest + 1)))
    for layer in range(deepest + 1):
        weights = model.block_weights(layer)
        read = sites if layer in layers else ()
        inside = {site: tapped[site] for site in read if site in tapped}
        leave = layer == deepest and "resid_post" not in sites and not final_sites
        for passage in passages:
            values = {"resid_pre": passage.hidden}
            with suppress(_Enough), _reading(model.blocks[layer], inside, values, leave):
                passage.hidden = model.run_block(
                    layer, weights, passage.hidden, passage.calls[layer]
                )
            values["resid_post"] = passage.hidden
            if read:
                shaped = {s: _shaped(s, values[s], tapped.get(s), model.sizes) for s in read}
                yield Section(layer, passage.rows, shaped)
    for passage in passages if final_sites else []:
        normed, logits = model.finish(passage.ids, passage.hidden)
        values = {"ln_final": normed.flatten(0, 1).numpy(), "logits": logits.flatten(0, 1).numpy()}
        yield Section(None, passage.rows, {site: values[site] for site in final_sites})


@contextmanager
def _reading(
    block: nn.Module, wanted: Mapping[str, Tap], values: dict[str, Tensor], leave: bool
) -> Iterator[None]:
    """Note tensors in `values` while a block runs; with `leave`, stop it after the last one."""

    def note(site: str, value: Any) -> None:
        values[site] = value[0] if isinstance(value, tuple) else value
        if leave and wanted.keys() <= values.keys():
            raise _Enough

    with ExitStack() as hooks:
        for site, tap in wanted.items():
            try:
                module = block.get_submodule(tap.path)
            except AttributeError:
                raise MicrotomeError(
                    f"site {site!r}: {type(block).__name__} has no module {tap.path!r}; "
                    "correct its entry in microtome/architectures.py"
                ) from None
            if tap.side == "output":
                hook = module.register_forward_hook(
                    lambda module, args, output, site=site: note(site, output)
                )
            else:
                hook = module.register_forward_pre_hook(
                    lambda module, args, site=site: note(site, args)
                )
            hooks.callback(hook.remove)
        yield


def _shaped(site: str, value: Tensor, tap: Tap | None, sizes: Mapping[str, int]) -> np.ndarray:
    """Cut a site's part out of (batch, position, width) and give it the site's dimensions."""
    if tap is not None and tap.part is not None:
        value = _part(value, tap, sizes)
    shape = [sizes[dimension] for dimension in SITES[site]]
    try:
        return value.reshape(-1, *shape).numpy()
    except RuntimeError:
        raise MicrotomeError(
            f"site {site!r}: shape {tuple(value.shape)} where (batch, position) × "
            f"{' × '.join(map(str, shape))} was expected; correct microtome/architectures.py"
        ) from None


def _part(value: Tensor, tap: Tap, sizes: Mapping[str, int]) -> Tensor:
    n_heads, n_kv_heads, d_head = sizes["n_heads"], sizes["n_kv_heads"], sizes["d_head"]
    which = "qkv".index(tap.part)
    if tap.fused == "heads":
        return value.unflatten(-1, (n_heads, 3, d_head))[..., which, :]
    return value.split([d_head * n for n in (n_heads, n_kv_heads, n_kv_heads)], dim=-1)[which]
