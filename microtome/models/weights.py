"""A model's weights, which stay on disk until they are used.

They are mapped from the checkpoint's safetensors, without a copy where they need no conversion.
While a block runs, the system reads the next one's from disk. What is resident is one block and the
rows of the embedding tables that were looked up.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from torch import Tensor

from microtome.errors import MicrotomeError
from microtome.models.checkpoint import tensor_index
from microtome.models.memory import prefetch
from microtome.models.skeleton import resolve

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
        self._keys = resolve(model, self._files)
        missing = set(model.state_dict()) - set(self._keys)
        if missing:
            raise MicrotomeError(
                f"{checkpoint}: {min(missing)!r} is missing or has another shape than "
                "config.json says; fetch the model again"
            )
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
            coming = self._stored(blocks.start)
            for layer in blocks:
                weights = self._converted(layer, coming)
                if layer + 1 in blocks:
                    coming = self._stored(layer + 1)
                    for weight in coming.values():
                        prefetch(weight)
                yield layer, weights
            return
        with ThreadPoolExecutor(max_workers=1) as reader:
            coming = reader.submit(self.of_block, blocks.start)
            for layer in blocks:
                weights = coming.result()
                if layer + 1 in blocks:
                    coming = reader.submit(self.of_block, layer + 1)
                yield layer, weights

    def of_block(self, layer: int) -> dict[str, Tensor]:
        """The weights of one block in the dtype of computation, by their names in the block.

        Weights of another dtype are converted into the same memory for every block, which is
        three times as fast as new memory: what an earlier call returned is overwritten (on a GPU,
        what the call before the last did).
        """
        weights = self._converted(layer, self._stored(layer))
        return self._transferred(weights) if self._on_gpu else weights

    def around_blocks(self, within: str, tables: set[str]) -> dict[str, Tensor]:
        """The weights outside of the blocks.

        Args:
            within: what their names begin with.
            tables: names of embedding tables, which keep the checkpoint's dtype.
        """
        weights = self._read(
            [
                name
                for name in self._keys
                if name.startswith(within) and not name.startswith(f"{self._path}.")
            ]
        )
        for name in weights.keys() - tables:
            if weights[name].is_floating_point():
                weights[name] = weights[name].to(self._dtype)
        return {name: weight.to(self._device) for name, weight in weights.items()}

    def _stored(self, layer: int) -> dict[str, Tensor]:
        """The weights of one block in the checkpoint's dtype."""
        prefix = f"{self._path}.{self._order[layer]}."
        names = [name for name in self._keys if name.startswith(prefix)]
        return {name.removeprefix(prefix): w for name, w in self._read(names).items()}

    def _converted(self, layer: int, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: self._buffer(layer, name, weight.shape).copy_(weight)
            if weight.is_floating_point() and (weight.dtype != self._dtype or self._on_gpu)
            else weight
            for name, weight in weights.items()
        }

    def _buffer(self, layer: int, name: str, shape: torch.Size) -> Tensor:
        """Memory for a block's weight; where a GPU reads it, pinned, and one of two."""
        key = (layer % 2 if self._on_gpu else 0, name)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.shape != shape:
            buffer = torch.empty(shape, dtype=self._dtype, pin_memory=self._on_gpu)
            self._buffers[key] = buffer
        return buffer

    def _transferred(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights on the GPU, sent on a stream of their own beside the running block."""
        with torch.cuda.stream(self._transfers):
            sent = {
                name: weight.to(self._device, non_blocking=True) for name, weight in weights.items()
            }
        self._transfers.synchronize()  # holds up this thread, not the block
        for weight in sent.values():
            weight.record_stream(torch.cuda.current_stream(self._device))
        return sent

    def _read(self, names: list[str]) -> dict[str, Tensor]:
        """Map tensors of the model in the checkpoint's dtype.

        Files are opened anew each time: a mapping's pages stay resident until it is closed,
        and it closes with the last tensor that was taken from it.
        """
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self._files[self._keys[name]][0], []).append(name)
        tensors = {}
        for file, members in by_file.items():
            with safe_open(file, framework="pt") as opened:
                for name in members:
                    tensors[name] = opened.get_tensor(self._keys[name])
        return tensors
