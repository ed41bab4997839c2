"""A causal LM whose weights stay on disk until a block runs.

The skeleton holds modules without weights. Weights are mapped from the checkpoint's safetensors
(without a copy where they need no conversion) and handed to a module for one call. While a block
runs, the system reads the next one's from disk. What is resident is one block and the rows of the
embedding tables that were looked up.
"""

import ctypes
import mmap
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.func import functional_call

from microtome.errors import MicrotomeError
from microtome.model.checkpoint import read_config, sizes, tensor_index
from microtome.model.skeleton import resolve, skeleton
from microtome.sweep.prefixes import Prefixes, PrefixSharing

_LIBC = ctypes.CDLL(None)


@dataclass
class Call:
    """What a block is called with besides the hidden state: masks, rotary positions, flags."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def state(self) -> Any:
        """What differs once a block has changed an argument in place, for one to come to read."""
        return _state((self.args, self.kwargs))


class MappedModel:
    """The skeleton of a checkpoint's model, and the means to run it block by block.

    Attributes:
        config: the transformers config.
        sizes: the model's dimensions, as `microtome.model.checkpoint.sizes` names them.
        blocks: the blocks, without weights.
    """

    def __init__(self, checkpoint: Path, dtype: str = "float32", device: str = "cpu") -> None:
        """Build the skeleton and match its names with the checkpoint's tensors.

        Args:
            checkpoint: a checkpoint folder as `microtome.model.fetch.fetch` makes it.
            dtype: what is computed in: float32, bfloat16 or float16.
            device: where: cpu or cuda.

        Raises:
            MicrotomeError: weights that are missing, damaged, or do not fit the config.
        """
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._device = torch.device(device)
        self._on_gpu = self._device.type == "cuda"
        self._transfers = torch.cuda.Stream(self._device) if self._on_gpu else None
        self.config = read_config(checkpoint)
        self.sizes = sizes(self.config)
        self._model = model = skeleton(self.config, self._dtype)
        self._files = tensor_index(checkpoint)
        found = resolve(model, self._files)
        missing = set(model.state_dict()) - set(found)
        if missing:
            raise MicrotomeError(
                f"{checkpoint}: {min(missing)!r} is missing or has another shape than "
                "config.json says; fetch the model again"
            )
        self._keys = found
        self._blocks_path = _blocks_path(model, self.sizes["n_layers"])
        self.blocks = model.get_submodule(self._blocks_path)
        self._sharing = PrefixSharing(self.blocks)
        # A plain embedding looks rows up in the checkpoint's own dtype: converting the rows
        # afterwards gives the same numbers as converting the table, without its memory.
        self._tables = {
            f"{name}.weight": module
            for name, module in model.named_modules()
            if type(module).forward is nn.Embedding.forward
        }
        for module in self._tables.values():
            module.register_forward_hook(lambda module, args, output: output.to(self._dtype))
        self._returns_tuple: bool | None = None
        self._buffers: dict[tuple[int, str], Tensor] = {}
        self._on_device: dict[str, dict[str, Tensor]] = {}
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(self._device))

    def weights_of_blocks(self, blocks: range) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The weights of consecutive blocks, each brought nearer while the one before it runs.

        On a CPU the system reads the next block's pages from disk; a thread of ours would only
        take turns with the block. To a GPU a thread sends them.

        Yields:
            A block's index and its weights in the dtype of computation, by their names in the
            block; they hold until the next ones are asked for.
        """
        if not self._on_gpu:
            coming = self._stored_weights(blocks.start)
            for layer in blocks:
                weights = self._converted(layer, coming)
                if layer + 1 in blocks:
                    coming = self._stored_weights(layer + 1)
                    for weight in coming.values():
                        _announce(weight)
                yield layer, weights
            return
        with ThreadPoolExecutor(max_workers=1) as reader:
            coming = reader.submit(self.block_weights, blocks.start)
            for layer in blocks:
                weights = coming.result()
                if layer + 1 in blocks:
                    coming = reader.submit(self.block_weights, layer + 1)
                yield layer, weights

    def block_weights(self, layer: int) -> dict[str, Tensor]:
        """The weights of one block in the dtype of computation, by their names in the block.

        Weights of another dtype are converted into the same memory for every block, which is
        three times as fast as new memory: what an earlier call returned is overwritten (on a GPU,
        what the call before the last did).
        """
        weights = self._converted(layer, self._stored_weights(layer))
        return self._transferred(weights) if self._on_gpu else weights

    def _converted(self, layer: int, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: self._buffer(layer, name, weight.shape).copy_(weight)
            if weight.is_floating_point() and (weight.dtype != self._dtype or self._on_gpu)
            else weight
            for name, weight in weights.items()
        }

    def _stored_weights(self, layer: int) -> dict[str, Tensor]:
        prefix = f"{self._blocks_path}.{layer}."
        names = [name for name in self._keys if name.startswith(prefix)]
        return {name.removeprefix(prefix): w for name, w in self._read(names).items()}

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

    def run_block(
        self,
        layer: int,
        weights: dict[str, Tensor],
        hidden: Tensor,
        call: Call,
        prefixes: Prefixes | None = None,
    ) -> Tensor:
        """Run one block.

        Args:
            layer: its index.
            weights: what `block_weights` returned for it.
            hidden: (batch, position, d_model).
            call: its other arguments, as `record` noted them for this batch.
            prefixes: of the batch's texts; what they share is then computed once, on the CPU.

        Returns:
            The hidden state after the block, (batch, position, d_model).
        """
        # Not on a GPU, where every comparison would wait for what runs there.
        with self._sharing.of(None if self._on_gpu else prefixes):
            return first(self._called(layer, weights, hidden, call))

    def _called(self, layer: int, weights: dict[str, Tensor], hidden: Tensor, call: Call) -> Any:
        """What a block returns. Its weights are parameters as in the model itself: torch.matmul
        takes another way for a factor that requires a gradient, and last bits differ.
        """
        block = self.blocks[layer]
        parameters = {name: nn.Parameter(weights[name]) for name, _ in block.named_parameters()}
        return functional_call(block, weights | parameters, (hidden, *call.args), call.kwargs)

    def record(self, ids: Tensor, n_blocks: int) -> tuple[Tensor, list[Call]]:
        """Run only what comes before the blocks, and note what each block is called with.

        Args:
            ids: token ids, (batch, position).
            n_blocks: how many blocks are to be noted, from the first.

        Returns:
            The hidden state that enters the first block, (batch, position, d_model), and the
            other arguments of the first `n_blocks` blocks.

        Raises:
            MicrotomeError: a model that takes more of a block than its hidden state, or whose
                hidden state has other dimensions.
        """
        if self._returns_tuple is None:
            self._returns_tuple = self._ask_first_block(ids[:1, :1])
        seen: list[tuple[Tensor, Call]] = []

        def note(hidden: Tensor, call: Call) -> Any:
            seen.append((hidden, call))
            if len(seen) == n_blocks:
                raise _Stop
            return (hidden,) if self._returns_tuple else hidden

        try:
            self._run_without_blocks(ids, note)
        except ValueError as error:
            if "unpack" not in str(error):
                raise
            raise MicrotomeError(
                f"{self.config.model_type}: the model takes more of its blocks than a hidden state "
                "and cannot be swept; take another model"
            ) from error
        hidden = seen[0][0]
        if hidden.shape != (*ids.shape, self.sizes["d_model"]):
            raise MicrotomeError(
                f"{self.config.model_type}: its blocks are handed {tuple(hidden.shape)}, not one "
                "hidden state per token, and cannot be swept; take another model"
            )
        return hidden, [call for _, call in seen]

    def _ask_first_block(self, ids: Tensor) -> bool:
        """Whether a block returns a tuple: this varies by family and version of transformers."""
        answers = []

        def ask(hidden: Tensor, call: Call) -> None:
            output = self._called(0, self.block_weights(0), hidden, call)
            answers.append(isinstance(output, tuple | list))
            raise _Stop

        self._run_without_blocks(ids, ask)
        return answers[0]

    def finish(self, ids: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Run what comes after the blocks.

        Args:
            ids: token ids, (batch, position).
            hidden: the hidden state after the last block, (batch, position, d_model).

        Returns:
            The final norm's output, (batch, position, d_model), and the logits,
            (batch, position, d_vocab).
        """
        # What loops over the blocks ends with the final norm, whatever calls it.
        owner = self._model.get_submodule(self._blocks_path.rpartition(".")[0])
        normed = []
        with owner.register_forward_hook(lambda module, args, output: normed.append(first(output))):
            output = self._run_without_blocks(
                ids,
                lambda entering, call: (hidden,) if self._returns_tuple else hidden,
                head=True,
            )
        return normed[0], output.logits

    def _run_without_blocks(
        self, ids: Tensor, stand_in: Callable[[Tensor, Call], Any], *, head: bool = False
    ) -> Any:
        """Run the model, up to a `_Stop` if there is one, with a function in place of each block.

        Args:
            ids: token ids, (batch, position).
            stand_in: called with a block's hidden state and other arguments.
            head: whether the run goes beyond the base model, so that the head needs weights.

        Returns:
            The model's output, or None after a `_Stop`.
        """
        within = "" if head else f"{self._blocks_path.partition('.')[0]}."
        weights = self._on_device.get(within)
        if weights is None:
            weights = self._outer_weights(within)
            if self._on_gpu:  # on the CPU they are mapped anew, so that their pages do not stay
                self._on_device[within] = weights
        parent, _, attribute = self._blocks_path.rpartition(".")
        owner = self._model.get_submodule(parent)
        setattr(owner, attribute, nn.ModuleList(_StandIn(block, stand_in) for block in self.blocks))
        try:
            # Tied weights are given under each of their names: the head wants the dtype
            # of computation, the embedding table keeps the checkpoint's dtype.
            inputs = {"input_ids": ids.to(self._device), "use_cache": False}
            return functional_call(self._model, weights, (), inputs, tie_weights=False)
        except _Stop:
            return None
        finally:
            setattr(owner, attribute, self.blocks)

    def _outer_weights(self, within: str) -> dict[str, Tensor]:
        """The weights outside of the blocks whose names begin with `within`."""
        weights = self._read(
            [
                name
                for name in self._keys
                if name.startswith(within) and not name.startswith(f"{self._blocks_path}.")
            ]
        )
        for name in weights.keys() - self._tables.keys():
            if weights[name].is_floating_point():
                weights[name] = weights[name].to(self._dtype)
        return {name: weight.to(self._device) for name, weight in weights.items()}

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


def first(output: Any) -> Tensor:
    """The hidden state in what a module returns: all of it, or its first element."""
    return output if isinstance(output, Tensor) else output[0]


def _state(value: Any) -> Any:
    if isinstance(value, Tensor):
        return id(value), value._version  # which torch counts up with each change in place
    if isinstance(value, Mapping):
        return {key: _state(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_state(held) for held in value]
    return None


def _announce(weight: Tensor) -> None:
    """Have the system read a tensor's pages from disk, if they are not in memory yet."""
    start = weight.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
    size = weight.data_ptr() + weight.nbytes - start
    # Into the page cache, not into this process: what is resident stays one block.
    _LIBC.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_WILLNEED)


def give_back() -> None:
    """Return freed memory to the system, which otherwise keeps growing by what lies between uses.

    Arrays of a few MiB that one thread makes and another lets go of leave gaps in glibc's heap; the
    peak of a long sweep was half as high again.
    """
    with suppress(AttributeError):  # other C libraries have no such function
        _LIBC.malloc_trim(0)


class _Stop(Exception):
    """Leaves a forward whose remainder is not wanted."""


class _StandIn(nn.Module):
    """Takes a block's place in its model and hands each call to a function."""

    def __init__(self, block: nn.Module, function: Callable[[Tensor, Call], Any]) -> None:
        super().__init__()
        # Kept out of the module's children: the block's weights are not to be asked for.
        self.__dict__.update(block=block, function=function)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["block"], name)  # some models read attributes of a block

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not args:
            args = (kwargs.pop("hidden_states"),)
        return self.function(args[0], Call(args[1:], kwargs))


def _blocks_path(model: nn.Module, n_layers: int) -> str:
    """The path of the model's list of blocks: the outermost one of that length."""
    paths = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    outermost = [p for p in paths if not any(p.startswith(f"{other}.") for other in paths)]
    if len(outermost) != 1:
        raise MicrotomeError(
            f"{type(model).__name__}: {len(outermost)} lists of {n_layers} blocks, expected one"
        )
    return outermost[0]
