"""A causal LM whose weights stay on disk until a block runs.

The skeleton holds modules without weights. Weights are mapped from the checkpoint's safetensors
(float32 ones without a copy) and handed to a module for one call, so that what is resident is
one block and the rows of the embedding tables that were looked up.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.func import functional_call

from microtome.checkpoint import read_config, sizes, tensor_index
from microtome.errors import MicrotomeError
from microtome.skeleton import resolve, skeleton


@dataclass
class Call:
    """What a block is called with besides the hidden state: masks, rotary positions, flags."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class MappedModel:
    """The skeleton of a checkpoint's model, and the means to run it block by block.

    Attributes:
        config: the transformers config.
        sizes: the model's dimensions, as `microtome.checkpoint.sizes` names them.
        blocks: the blocks, without weights.
    """

    def __init__(self, checkpoint: Path) -> None:
        """Build the skeleton and match its names with the checkpoint's tensors.

        Raises:
            MicrotomeError: weights that are missing, damaged, or do not fit the config.
        """
        self.config = read_config(checkpoint)
        self.sizes = sizes(self.config)
        self._model = model = skeleton(self.config)
        self._base = model.base_model
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
        # A plain embedding looks rows up in the checkpoint's own dtype: converting the rows
        # afterwards gives the same numbers as converting the table, without its memory.
        self._tables = {
            f"{name}.weight": module
            for name, module in model.named_modules()
            if type(module).forward is nn.Embedding.forward
        }
        for module in self._tables.values():
            module.register_forward_hook(lambda module, args, output: output.to(torch.float32))
        self._returns_tuple: bool | None = None
        self._converted: dict[tuple[str, torch.Size], Tensor] = {}

    def block_weights(self, layer: int) -> dict[str, Tensor]:
        """The weights of one block in float32, by their names in the block.

        Weights of another dtype are converted into the same memory for every block, which is
        three times as fast as new memory: what an earlier call returned is overwritten.
        """
        prefix = f"{self._blocks_path}.{layer}."
        names = [name for name in self._keys if name.startswith(prefix)]
        weights = {name.removeprefix(prefix): w for name, w in self._read(names).items()}
        for name, weight in weights.items():
            if weight.is_floating_point() and weight.dtype != torch.float32:
                key = (name, weight.shape)
                if key not in self._converted:
                    self._converted[key] = torch.empty(weight.shape, dtype=torch.float32)
                weights[name] = self._converted[key].copy_(weight)
        return weights

    def run_block(
        self, layer: int, weights: dict[str, Tensor], hidden: Tensor, call: Call
    ) -> Tensor:
        """Run one block.

        Args:
            layer: its index.
            weights: what `block_weights` returned for it.
            hidden: (batch, position, d_model).
            call: its other arguments, as `record` noted them for this batch.

        Returns:
            The hidden state after the block, (batch, position, d_model).
        """
        output = functional_call(self.blocks[layer], weights, (hidden, *call.args), call.kwargs)
        return output[0] if isinstance(output, tuple) else output

    def record(self, ids: Tensor, n_blocks: int) -> tuple[Tensor, list[Call]]:
        """Run only what comes before the blocks, and note what each block is called with.

        Args:
            ids: token ids, (batch, position).
            n_blocks: how many blocks are to be noted, from the first.

        Returns:
            The hidden state that enters the first block, (batch, position, d_model), and the
            other arguments of the first `n_blocks` blocks.
        """
        if self._returns_tuple is None:
            self._returns_tuple = self._ask_first_block(ids[:1, :1])
        seen: list[tuple[Tensor, Call]] = []

        def note(hidden: Tensor, call: Call) -> Any:
            seen.append((hidden, call))
            if len(seen) == n_blocks:
                raise _Stop
            return (hidden,) if self._returns_tuple else hidden

        self._run_without_blocks(ids, note)
        return seen[0][0], [call for _, call in seen]

    def _ask_first_block(self, ids: Tensor) -> bool:
        """Whether a block returns a tuple: this varies by family and version of transformers."""
        answers = []

        def ask(hidden: Tensor, call: Call) -> None:
            weights = self.block_weights(0)
            output = functional_call(self.blocks[0], weights, (hidden, *call.args), call.kwargs)
            answers.append(isinstance(output, tuple))
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
        normed = []
        hook = self._base.register_forward_hook(
            lambda module, args, output: normed.append(output.last_hidden_state)
        )
        with hook:
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
        within = "" if head or self._base is self._model else f"{self._model.base_model_prefix}."
        weights = self._read(
            [
                name
                for name in self._keys
                if name.startswith(within) and not name.startswith(f"{self._blocks_path}.")
            ]
        )
        for name in weights.keys() - self._tables.keys():
            if weights[name].is_floating_point():
                weights[name] = weights[name].to(torch.float32)
        parent, _, attribute = self._blocks_path.rpartition(".")
        owner = self._model.get_submodule(parent)
        setattr(owner, attribute, nn.ModuleList(_StandIn(block, stand_in) for block in self.blocks))
        try:
            # Tied weights are given under each of their names: the head wants float32, the
            # embedding table keeps the checkpoint's dtype.
            return functional_call(
                self._model, weights, (), {"input_ids": ids, "use_cache": False}, tie_weights=False
            )
        except _Stop:
            return None
        finally:
            setattr(owner, attribute, self.blocks)

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
