"""The sweep: run texts through a model one block at a time and read activations as they pass.

One forward per batch, with recorders in the place of the blocks, gives the hidden state that
enters the first block and what every block is called with. Then, for each block in order: map
its weights, run every batch through it, drop them. The values are those of a full forward of
the same batch, bit for bit: the same modules run the same operations on the same numbers, once for
the prefixes that texts share (`microtome.sweep.prefixes`).

A sweep may be made in parts, ranges of blocks one after another: what leaves the last block of one
enters the first of the next.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from tqdm import tqdm

from microtome.errors import MicrotomeError
from microtome.model.architectures import Tap, taps
from microtome.model.mapped import Call, MappedModel, first, give_back
from microtome.sites import DIMENSIONS
from microtome.store.layers import Section, sequences
from microtome.sweep.prefixes import Prefixes

#: After so many bytes of activations the system gets back what is free; that takes 10 ms.
GIVE_BACK = 1 << 27


@dataclass(frozen=True)
class Batch:
    """Sequences of one length.

    Attributes:
        rows: for each of their tokens, the row of the activation arrays that it goes into, or -1
            for none; tokens of one row are averaged. (batch, position).
        tokens: for each of their tokens, its row of the token table, (batch, position).
        ids: their token ids, (batch, position).
    """

    rows: np.ndarray
    tokens: np.ndarray
    ids: np.ndarray


class _Kept:
    """What is kept of a batch's tokens: all, some, or means over neighbours.

    Attributes:
        rows: the rows of the activation arrays that are made, ascending, (n,).
    """

    def __init__(self, rows: np.ndarray) -> None:
        flat = rows.ravel()
        chosen = np.flatnonzero(flat >= 0)
        self.rows, counts = np.unique(flat[chosen], return_counts=True)
        self._chosen = None if len(chosen) == flat.size else torch.from_numpy(chosen)
        self._counts = None if counts.max(initial=1) == 1 else torch.from_numpy(counts)

    def __call__(self, value: Tensor) -> Tensor:
        """Cut (batch, position, width) down to (n, width)."""
        value = value.flatten(0, 1)
        if self._chosen is not None:
            value = value[self._chosen]
        if self._counts is not None:
            value = torch.segment_reduce(value.float(), "mean", lengths=self._counts, axis=0)
        return value


@dataclass
class _Passage:
    """A batch on its way through the model."""

    kept: _Kept
    ids: Tensor  # (batch, position)
    hidden: Tensor  # entering the next block, (batch, position, d_model)
    calls: list[Call]  # of every block
    prefixes: Prefixes


class _Enough(Exception):
    """Leaves the deepest block when its last site has been read."""


def batched(columns: Mapping[str, ArrayLike], batch_size: int) -> list[Batch]:
    """Group the sequences of a token table into batches of one length each: none is padded.

    Args:
        columns: the token table's columns by name, (token,) each; without `row`, every token has
            a row of its own.
        batch_size: sequences per batch, at most.
    """
    ids = sequences(columns)
    everything = {"sequence": columns["sequence"], "row": np.arange(len(columns["token_id"]))}
    tokens = sequences(everything, "row")
    rows = sequences(columns, "row") if "row" in columns else tokens
    lengths = np.array([len(sequence) for sequence in ids])
    batches = []
    for length in np.unique(lengths):
        members = np.flatnonzero(lengths == length)
        for chosen in np.split(members, range(batch_size, len(members), batch_size)):
            batches.append(
                Batch(*(np.stack([of[i] for i in chosen]) for of in (rows, tokens, ids)))
            )
    return batches


def sweep_table(
    checkpoint: Path,
    columns: Mapping[str, ArrayLike],
    sites: Sequence[str],
    layers: Sequence[int],
    final_sites: Sequence[str] = (),
    *,
    batch_size: int,
    dtype: str,
    device: str,
    log: TextIO,
    entering: Section | None = None,
    stop: int | None = None,
    leaving: Callable[[Iterator[Section]], None] | None = None,
) -> Iterator[Section]:
    """Run a token table's sequences through a model as `sweep` does, with a progress bar.

    Args:
        checkpoint: a checkpoint folder as `microtome.model.fetch.fetch` makes it.
        columns: the token table's columns by name, (token,) each.
        sites: sites of blocks.
        layers: indices of blocks.
        final_sites: sites after the last block.
        batch_size: sequences per batch, at most.
        dtype: as in `sweep`.
        device: as in `sweep`.
        log: where the bar goes.
        entering: as in `sweep`.
        stop: as in `sweep`.
        leaving: as in `sweep`.
    """
    batches = batched(columns, batch_size)
    sections = sweep(
        *(checkpoint, batches, sites, layers, final_sites, dtype, device),
        entering=entering,
        stop=stop,
        leaving=leaving,
    )
    total = (len(layers) + bool(final_sites)) * len(batches)
    with tqdm(total=total, unit="batch", desc="layers × batches", file=log) as bar:

        def passing(section: Section) -> Section:
            bar.update()
            return section

        # Over the sections themselves tqdm would hold each while the next one is computed.
        yield from map(passing, sections)


@torch.no_grad()
def sweep(
    checkpoint: Path,
    batches: Sequence[Batch],
    sites: Sequence[str],
    layers: Sequence[int],
    final_sites: Sequence[str] = (),
    dtype: str = "float32",
    device: str = "cpu",
    *,
    entering: Section | None = None,
    stop: int | None = None,
    leaving: Callable[[Iterator[Section]], None] | None = None,
) -> Iterator[Section]:
    """Run batches through a model and yield the activations at some sites of some layers.

    Unless final sites are asked for, the sweep ends in the deepest layer asked for, after the
    last site there.

    Args:
        checkpoint: a checkpoint folder as `microtome.model.fetch.fetch` makes it.
        batches: what `batched` returned.
        sites: names of `microtome.sites.SITES`.
        layers: indices of blocks.
        final_sites: names of `microtome.sites.FINAL_SITES`.
        dtype: what is computed in: float32, bfloat16 or float16.
        device: where: cpu, cuda, or auto for a GPU if there is one.
        entering: in the place of embeddings, `resid_pre` of all tokens at the first block that is
            run, as an earlier part of the sweep gave it to `leaving`.
        stop: the block at which another part goes on, and this one ends.
        leaving: is given `resid_pre` of all tokens at that block, batch by batch, when the rest
            is done.

    Yields:
        Layer by layer in ascending order, and batch by batch within a layer, the rows of the
        activation arrays that the batch makes and an array (rows, …) in float32 for each site;
        last, with None for a layer, the final sites.

    Raises:
        MicrotomeError: an unknown site or layer, weights that do not fit the config, no GPU; a
            part that ends where blocks hand on more than the hidden state.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise MicrotomeError(
            "sweep.device: cuda, but torch finds no GPU here; set it to auto or cpu"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = MappedModel(checkpoint, dtype, device)
    tapped = taps(model.config, sites)
    n_layers = model.sizes["n_layers"]
    for layer in layers:
        if not 0 <= layer < n_layers:
            raise MicrotomeError(f"layer {layer}: the model has layers 0 to {n_layers - 1}")
    if stop is None:
        stop = n_layers if final_sites else max(layers) + 1
    blocks = range(0 if entering is None else entering.layer, stop)
    passages = []
    for batch in batches:
        ids = torch.from_numpy(batch.ids).long()
        hidden, calls = model.record(ids, n_layers if leaving else stop)
        if entering is not None:
            values = torch.from_numpy(entering.values["resid_pre"][batch.tokens])
            hidden = values.to(hidden.device, getattr(torch, dtype))
        passages.append(_Passage(_Kept(batch.rows), ids, hidden, calls, Prefixes(batch.ids)))
    entering = None  # as large as all hidden states
    n_bytes = 0
    to_come = [call.state() for call in passages[0].calls[stop:]]
    for layer, weights in model.weights_of_blocks(blocks):
        read = sites if layer in layers else ()
        inside = {site: tapped[site] for site in read if site in tapped}
        leave = layer == blocks[-1] and "resid_post" not in sites and not (final_sites or leaving)
        for passage in passages:
            values: dict[str, Tensor] = {}
            if "resid_pre" in read:
                values["resid_pre"] = passage.kept(passage.hidden)
            with (
                suppress(_Enough),
                _reading(model.blocks[layer], inside, passage.kept, values, leave),
            ):
                passage.hidden = model.run_block(
                    layer, weights, passage.hidden, passage.calls[layer], passage.prefixes
                )
            if "resid_post" in read:
                values["resid_post"] = passage.kept(passage.hidden)
            if read:
                # Bound to no name here, which would hold it while the next one is computed.
                yield Section(
                    layer,
                    passage.kept.rows,
                    {s: _shaped(s, values[s], tapped.get(s), model.sizes) for s in read},
                )
                n_bytes += sum(value.nbytes for value in values.values())
                if n_bytes > GIVE_BACK:
                    give_back()
                    n_bytes = 0
        if [call.state() for call in passages[0].calls[stop:]] != to_come:
            raise _hand_on_more(model, stop)
    for passage in passages if final_sites else []:
        normed, logits = model.finish(passage.ids, passage.hidden)
        values = {"ln_final": passage.kept(normed), "logits": passage.kept(logits)}
        shaped = {s: _shaped(s, values[s], None, model.sizes) for s in final_sites}
        yield Section(None, passage.kept.rows, shaped)
    if leaving:
        if passages[0].hidden.dtype != getattr(torch, dtype):
            raise _hand_on_more(model, stop)
        leaving(
            Section(stop, batch.tokens.ravel(), {"resid_pre": _all_tokens(passage, model)})
            for batch, passage in zip(batches, passages, strict=True)
        )


def _all_tokens(passage: _Passage, model: MappedModel) -> np.ndarray:
    """What enters the next block, (token, d_model), in float32."""
    return _shaped("resid_pre", passage.hidden.flatten(0, 1), None, model.sizes)


def _hand_on_more(model: MappedModel, block: int) -> MicrotomeError:
    return MicrotomeError(
        f"{model.config.model_type}: its blocks hand on more than a hidden state in the dtype of "
        f"computation, so that no job can begin at block {block}; take `layers_per_job` out of "
        "the config's `sweep`"
    )


@contextmanager
def _reading(
    block: nn.Module, wanted: Mapping[str, Tap], kept: _Kept, values: dict[str, Tensor], leave: bool
) -> Iterator[None]:
    """Note tensors in `values` while a block runs; with `leave`, stop it after the last one."""

    def note(site: str, value: Any) -> None:
        values[site] = kept(first(value))
        if leave and wanted.keys() <= values.keys():
            raise _Enough

    with ExitStack() as hooks:
        for site, tap in wanted.items():
            try:
                module = block.get_submodule(tap.path)
            except AttributeError:
                raise MicrotomeError(
                    f"site {site!r}: {type(block).__name__} has no module {tap.path!r}; "
                    "correct its entry in microtome/model/architectures.py"
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
    """Cut a site's part out of (n, width) and give it the site's dimensions, in float32."""
    if tap is not None and tap.part is not None:
        value = _part(value, tap, sizes)
    shape = [sizes[dimension] for dimension in DIMENSIONS[site]]
    try:
        return value.reshape(len(value), *shape).to("cpu", torch.float32).numpy()
    except RuntimeError:
        remedy = "correct microtome/model/architectures.py" if tap else "leave this site out"
        raise MicrotomeError(
            f"site {site!r}: shape {tuple(value.shape)} where tokens × "
            f"{' × '.join(map(str, shape))} was expected; {remedy}"
        ) from None


def _part(value: Tensor, tap: Tap, sizes: Mapping[str, int]) -> Tensor:
    n_heads, n_kv_heads, d_head = sizes["n_heads"], sizes["n_kv_heads"], sizes["d_head"]
    which = "qkv".index(tap.part)
    if tap.fused == "heads":
        return value.unflatten(-1, (n_heads, 3, d_head))[..., which, :]
    return value.split([d_head * n for n in (n_heads, n_kv_heads, n_kv_heads)], dim=-1)[which]
