"""The sweep: run texts through a model one block at a time and read activations as they pass.

One forward per batch, with recorders in the place of the blocks, gives the hidden state that
enters the first block and what every block is called with. Then, for each block in order: map
its weights, run every batch through it, drop them. The values are those of a full forward of
the same batch, bit for bit: the same modules run the same operations on the same numbers, once for
the prefixes that texts share (`microtome.sweeps.prefixes`).

A sweep may be made in parts, ranges of blocks one after another: the residual stream that leaves
the last block of one part enters the first block of the next.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from microtome.errors import MicrotomeError
from microtome.models.calls import Call, SharedTensors
from microtome.models.mapped import MappedModel
from microtome.models.memory import trim_heap
from microtome.models.skeleton import require_head
from microtome.models.taps import Tap, check_sites
from microtome.sites import FINAL_SITES
from microtome.store.layers import Section
from microtome.sweeps.batches import Batch, RowSelection, batched
from microtome.sweeps.prefixes import STEADY, Distinct, Sharing, prefix_classes
from microtome.sweeps.reading import reading, shaped

#: Bytes of activations after which free memory goes back to the system; that takes 10 ms.
TRIM_AFTER = 1 << 27


def sweep_table(
    checkpoint: Path,
    columns: Mapping[str, np.ndarray],
    sites: Sequence[str],
    layers: Sequence[int],
    final_sites: Sequence[str] = (),
    *,
    taps: Mapping[str, Tap],
    batch_tokens: int,
    dtype: str,
    device: str,
    log: TextIO,
    resid_in: Section | None = None,
    stop: int | None = None,
    resid_out: Callable[[Iterator[Section]], None] | None = None,
    steady: bool = False,
) -> Iterator[Section]:
    """Run a token table's sequences through a model as `sweep` does.

    If that takes longer than 2 s, there is a progress bar.

    Args:
        checkpoint: a checkpoint folder as `microtome.models.fetch.fetch` makes it.
        columns: the token table's columns by name, (token,) each.
        sites: sites of blocks.
        layers: indices of blocks.
        final_sites: sites after the last block.
        taps: as in `sweep`.
        batch_tokens: tokens per batch, at most; a longer sequence is a batch of its own.
        dtype: as in `sweep`.
        device: as in `sweep`.
        log: where the bar goes.
        resid_in: as in `sweep`.
        stop: as in `sweep`.
        resid_out: as in `sweep`.
        steady: whether last digits are the same whatever other sequences there are: small batches
            are filled up.
    """
    batches = batched(columns, batch_tokens, STEADY * torch.get_num_threads() if steady else 0)
    sections = sweep(
        *(checkpoint, batches, sites, layers, final_sites, dtype, device),
        taps=taps,
        resid_in=resid_in,
        stop=stop,
        resid_out=resid_out,
    )
    total = (len(layers) + bool(final_sites)) * len(batches)
    with tqdm(total=total, unit="batch", desc="layers × batches", file=log, delay=2) as bar:

        def counted(section: Section) -> Section:
            bar.update()
            return section

        # Over the sections themselves tqdm would hold each while the next one is computed.
        yield from map(counted, sections)


@dataclass
class _BatchState:
    """A batch between two blocks."""

    selection: RowSelection
    ids: Tensor  # (batch, position)
    hidden: Tensor  # entering the next block, (batch, position, d_model)
    calls: list[Call]  # of every block
    distinct: Distinct | None  # tokens with values of their own


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
    taps: Mapping[str, Tap],
    resid_in: Section | None = None,
    stop: int | None = None,
    resid_out: Callable[[Iterator[Section]], None] | None = None,
) -> Iterator[Section]:
    """Run batches through a model and yield the activations at some sites of some layers.

    Unless final sites are asked for, the sweep ends in the deepest layer asked for, after the
    last site there.

    Args:
        checkpoint: a checkpoint folder as `microtome.models.fetch.fetch` makes it.
        batches: what `batched` returned.
        sites: names of `microtome.sites.SITES`.
        layers: indices of blocks.
        final_sites: names of `microtome.sites.FINAL_SITES`.
        dtype: what is computed in: float32, bfloat16 or float16.
        device: where: cpu, cuda, or auto for a GPU if there is one.
        taps: where the sites lie inside a block, as `microtome.models.anatomy.find_sites` tells.
        resid_in: `resid_pre` of all tokens at the first block that is run, which an earlier part
            of the sweep gave to its `resid_out`; without it the sweep begins with the embeddings.
        stop: the block that a later part begins at, where this one ends.
        resid_out: receives `resid_pre` of all tokens at that block, batch by batch, after all else.

    Yields:
        Layer by layer in ascending order, and batch by batch within a layer, the rows of the
        activation arrays that the batch makes and an array (rows, …) in float32 for each site;
        last, with None for a layer, the final sites.

    Raises:
        MicrotomeError: an unknown site or layer, logits of a model without head, weights
            that do not fit the config, no GPU; a part that ends where blocks pass on more than the
            hidden state.
    """
    model = MappedModel(checkpoint, dtype, found_device(device))
    sizes = model.sizes | {"key": max(batch.ids.shape[1] for batch in batches)}
    if "logits" in final_sites:
        require_head(f"the {model.config.model_type!r} model", model.head)
    n_layers = sizes["n_layers"]
    for layer in layers:
        if not 0 <= layer < n_layers:
            raise MicrotomeError(f"layer {layer}: the model has layers 0 to {n_layers - 1}")
    check_sites(sites, taps, model.config.model_type, layers)
    if stop is None:
        stop = n_layers if final_sites else max(layers) + 1
    blocks = range(0 if resid_in is None else resid_in.layer or 0, stop)
    shared = SharedTensors()
    states = _start(model, batches, n_layers if resid_out else stop, resid_in, shared)
    resid_in = None  # as large as all hidden states
    sharing = Sharing(model.blocks)
    n_bytes = 0
    later = [call.versions() for call in states[0].calls[stop:]]
    for layer, weights in model.weights_of_blocks(blocks):
        read = sites if layer in layers else ()
        inside = {site: taps[site] for site in read if site in taps}
        leave = layer == blocks[-1] and "resid_post" not in sites and not (final_sites or resid_out)
        for state in states:
            values: dict[str, Tensor] = {}
            if "resid_pre" in read:
                values["resid_pre"] = state.selection(model.stream(state.hidden))
            with (
                reading(model.blocks[layer], inside, state.selection, values, leave=leave),
                sharing.of(state.distinct),
            ):
                state.hidden = model.run_block(layer, weights, state.hidden, state.calls[layer])
            if "resid_post" in read:
                values["resid_post"] = state.selection(model.stream(state.hidden))
            if read:
                # Bound to no name here, which would hold it while the next one is computed.
                yield Section(
                    layer,
                    state.selection.rows,
                    {s: shaped(s, values[s], taps.get(s), sizes) for s in read},
                )
                n_bytes += sum(value.nbytes for value in values.values())
                if n_bytes > TRIM_AFTER:
                    trim_heap()
                    n_bytes = 0
        shared.refuse_changed(model.config.model_type)
        if [call.versions() for call in states[0].calls[stop:]] != later:
            raise _no_part_begins_at(stop, model)
    for state in states if final_sites else []:
        ends = zip(FINAL_SITES, model.finish(state.ids, state.hidden), strict=True)
        values = {site: value for site, value in ends if value is not None}
        arrays = {s: shaped(s, state.selection(values[s]), None, model.sizes) for s in final_sites}
        yield Section(None, state.selection.rows, arrays)
    if resid_out:
        hidden = states[0].hidden
        if hidden.dtype != model.dtype or hidden is not model.stream(hidden):
            raise _no_part_begins_at(stop, model)
        resid_out(
            Section(
                stop,
                batch.tokens.ravel(),
                {"resid_pre": shaped("resid_pre", state.hidden.flatten(0, 1), None, model.sizes)},
            )
            for batch, state in zip(batches, states, strict=True)
        )


def found_device(device: str) -> str:
    """The device that `cpu`, `cuda` or `auto` means here; MicrotomeError without the GPU asked."""
    if device == "cuda" and not torch.cuda.is_available():
        raise MicrotomeError(
            "sweep.device: cuda, but torch finds no GPU here; set it to auto or cpu"
        )
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _start(
    model: MappedModel,
    batches: Sequence[Batch],
    n_blocks: int,
    resid_in: Section | None,
    shared: SharedTensors,
) -> list[_BatchState]:
    """The batches before the first block that is run.

    Args:
        model: the model.
        batches: in any order.
        n_blocks: how many blocks' calls are noted, from the model's first.
        resid_in: as in `sweep`.
        shared: keeps what the calls of all batches have in common.
    """
    states = {}
    # Not on a GPU, where the order of sums depends on how many rows there are.
    shares = model.device.type == "cpu" and model.is_causal
    longest_first = sorted(range(len(batches)), key=lambda i: -batches[i].ids.shape[1])
    for number in longest_first:
        batch = batches[number]
        ids = torch.from_numpy(batch.ids).long()
        hidden, calls = model.record(ids, n_blocks)
        if resid_in is not None:
            values = torch.from_numpy(resid_in.values["resid_pre"][batch.tokens])
            hidden = values.to(model.device, model.dtype)
        distinct = Distinct(prefix_classes(batch.ids)) if shares else None
        states[number] = _BatchState(
            RowSelection(batch.rows), ids, hidden, shared.of(calls), distinct
        )
    return [states[number] for number in range(len(batches))]


def _no_part_begins_at(block: int, model: MappedModel) -> MicrotomeError:
    return MicrotomeError(
        f"{model.config.model_type}: its blocks pass on more than a hidden state in the dtype of "
        f"computation, so that no job can begin at block {block}; take `layers_per_job` out of "
        "the config's `sweep`"
    )
