"""A model's weights, which stay on disk until they are used.

They are mapped from the checkpoint's safetensors, without a copy where they need no conversion.
While a block runs, the system reads the next one's from disk. What is resident is one block and the
rows of the embedding tables that were looked up. Scales of block-wise float8 are applied, and
experts that are stored one by one are joined, when the weights of their block are read.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from torch import Tensor

from microtome.errors import MicrotomeError
from microtome.models.checkpoint import tensor_index
from microtome.models.float8 import FLOAT8, block_of, scale_of, scaled
from microtome.models.memory import prefetch
from microtome.models.origins import missing, resolve

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MappedWeights:
    """The weights of a checkpoint, by block."""

    def __init__(
        self,
        checkpoint: Path,
        model: "PreTrainedModel",
        blocks: str,
        order: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Match a model's names with the checkpoint's tensors.

        Args:
            checkpoint: a checkpoint folder as `microtome.models.fetch.fetch` makes it.
            model: its skeleton.
            blocks: the path of the list of blocks in it.
            order: of each layer, the number of its block in that list.
            dtype: what is computed in.
            device: where.

        Raises:
            MicrotomeError: weights that are missing, damaged, or do not fit the config.
        """
        self._files = tensor_index(checkpoint)
        self._model = model
        self._origins = resolve(model, self._files)
        lacking = missing(model, self._origins)
        if lacking:
            raise MicrotomeError(
                f"{checkpoint}: {lacking[0]!r} is missing or has another shape than "
                "config.json says; fetch the model again"
            )
        self._scale_block = block_of(model.config.to_dict())
        self._path, self._order, self._dtype, self._device = blocks, order, dtype, device
        self._on_gpu = device.type == "cuda"
        self._transfers = torch.cuda.Stream(device) if self._on_gpu else None
        self._buffers: dict[tuple[int, str], Tensor] = {}

    def of_blocks(self, blocks: range) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The weights of consecutive blocks, each prefetched while the block before it runs.

        On a CPU the system reads the next block's pages from disk; a thread would only compete
        with the block. On a GPU a thread sends them there.

        Yields:
            A block's index and its weights in the dtype of computation, by their names in the
            block; they are valid until the next ones are asked for.
        """
        if not self._on_gpu:
            coming = self._mapped(self._names(blocks.start))
            for layer in blocks:
                weights = self._block(layer, coming)
                if layer + 1 in blocks:
                    coming = self._mapped(self._names(layer + 1))
                    for tensor in coming.values():
                        prefetch(tensor)
                yield layer, weights
            return
        with ThreadPoolExecutor(max_workers=1) as reader:
            sent = reader.submit(self.of_block, blocks.start)
            for layer in blocks:
                weights = sent.result()
                if layer + 1 in blocks:
                    sent = reader.submit(self.of_block, layer + 1)
                yield layer, weights

    def of_block(self, layer: int) -> dict[str, Tensor]:
        """The weights of one block in the dtype of computation, by their names in the block.

        Weights of another dtype are converted into the same memory for every block, which is
        three times as fast as new memory: what an earlier call returned is overwritten (on a GPU,
        what the call before the last did).
        """
        weights = self._block(layer, self._mapped(self._names(layer)))
        return weights if self._transfers is None else self._sent(weights, self._transfers)

    def around_blocks(self, within: str, tables: set[str]) -> dict[str, Tensor]:
        """The weights outside of the blocks.

        Args:
            within: what their names begin with.
            tables: names of embedding tables, which keep the checkpoint's dtype.
        """
        names = [
            name
            for name in self._origins
            if name.startswith(within) and not name.startswith(f"{self._path}.")
        ]
        mapped = self._mapped(names)
        weights = {name: self._made(name, mapped) for name in names}
        for name in weights.keys() - tables:
            if weights[name].is_floating_point():
                weights[name] = weights[name].to(self._dtype)
        return {name: weight.to(self._device) for name, weight in weights.items()}

    def _prefix(self, layer: int) -> str:
        """What the names of a block's weights begin with."""
        return f"{self._path}.{self._order[layer]}."

    def _names(self, layer: int) -> list[str]:
        """The names of a block's weights in the model."""
        return [name for name in self._origins if name.startswith(self._prefix(layer))]

    def _block(self, layer: int, mapped: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights of one block in the dtype of computation, by their names in the block."""
        weights = {}
        for name in self._names(layer):
            own = name.removeprefix(self._prefix(layer))
            memory = partial(self._buffer, layer, own)
            weight = self._made(name, mapped, memory)
            if weight.is_floating_point() and (weight.dtype != self._dtype or self._on_gpu):
                weight = memory(weight.shape).copy_(weight)
            weights[own] = weight
        return weights

    def _buffer(self, layer: int, name: str, shape: torch.Size) -> Tensor:
        """Memory for a block's weight; where a GPU reads it, pinned, and one of two."""
        key = (layer % 2 if self._on_gpu else 0, name)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.shape != shape:
            buffer = torch.empty(shape, dtype=self._dtype, pin_memory=self._on_gpu)
            self._buffers[key] = buffer
        return buffer

    def _sent(self, weights: dict[str, Tensor], transfers: torch.cuda.Stream) -> dict[str, Tensor]:
        """Weights on the GPU, sent on a stream of their own beside the running block."""
        with torch.cuda.stream(transfers):
            sent = {
                name: weight.to(self._device, non_blocking=True) for name, weight in weights.items()
            }
        transfers.synchronize()  # holds up this thread, not the block
        for weight in sent.values():
            weight.record_stream(torch.cuda.current_stream(self._device))
        return sent

    def _made(
        self,
        name: str,
        mapped: dict[str, Tensor],
        memory: Callable[[torch.Size], Tensor] | None = None,
    ) -> Tensor:
        """A tensor of the model, in the checkpoint's dtype unless that has scales.

        Args:
            name: its name in the model.
            mapped: what it is made of.
            memory: provides the memory of one that has scales; new memory by default.
        """
        origin = self._origins[name]
        if memory is None or origin.converter is not None:
            memory = partial(torch.empty, dtype=self._dtype)

        def read(key: str) -> Tensor:
            if self._files[key][1]["dtype"] != FLOAT8:
                return mapped[key]
            stored, scales = mapped[key].view(torch.uint8), mapped[scale_of(key)].float()
            out = memory(stored.shape)
            into = out.numpy() if out.dtype == torch.float32 else None
            made = scaled(stored.numpy(), scales.numpy(), self._scale_block, into)
            return out if into is not None else out.copy_(torch.from_numpy(made))

        return origin.make(self._model, read)

    def _mapped(self, names: list[str]) -> dict[str, Tensor]:
        """Map what tensors of the model are made of, by the checkpoint's names.

        Files are opened anew each time: a mapping's pages stay resident until it is closed,
        and it closes with the last tensor that was taken from it.
        """
        by_file: dict[Path, list[str]] = {}
        for key in {key for name in names for key in self._origins[name].keys}:
            file, tensor = self._files[key]
            by_file.setdefault(file, []).append(key)
            if tensor["dtype"] == FLOAT8:
                by_file.setdefault(self._files[scale_of(key)][0], []).append(scale_of(key))
        tensors = {}
        for file, members in by_file.items():
            with safe_open(file, framework="pt") as opened:
                for key in members:
                    tensors[key] = opened.get_tensor(key)
        return tensors
