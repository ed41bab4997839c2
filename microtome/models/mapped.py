"""A language model that is run block by block, with weights that stay on disk until a block runs.

The skeleton holds modules without weights. Before a block runs, its weights are mapped from the
checkpoint and handed to it for one call; see `microtome.models.weights`.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from microtome.errors import MicrotomeError, in_short
from microtome.models.calls import Call, StandIn, Stop
from microtome.models.checkpoint import read_config, sizes
from microtome.models.skeleton import Head, head_of, sees_or_hears, skeleton
from microtome.models.weights import MappedWeights

#: How a model fails whose blocks are given or return more than a hidden state.
_MISFITS = (AttributeError, LookupError, NotImplementedError, TypeError, ValueError)


class MappedModel:
    """The skeleton of a checkpoint's model, and the means to run it block by block.

    Attributes:
        config: the transformers config.
        sizes: the model's dimensions, as `microtome.models.checkpoint.sizes` names them.
        head: what its head predicts, if it has one; see `microtome.models.skeleton`.
        blocks: the block of each layer, without weights.
        device: where it runs.
        dtype: what it computes in.
    """

    def __init__(self, checkpoint: Path, dtype: str = "float32", device: str = "cpu") -> None:
        """Build the skeleton and match its names with the checkpoint's tensors.

        Args:
            checkpoint: a checkpoint folder as `microtome.models.fetch.fetch` makes it.
            dtype: what is computed in: float32, bfloat16 or float16.
            device: where: cpu or cuda.

        Raises:
            MicrotomeError: weights that are missing, damaged, or do not fit the config.
        """
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.device = torch.device(device)
        self.config = read_config(checkpoint)
        self.sizes = sizes(self.config)
        self.head: Head = head_of(self.config)
        self._model = model = skeleton(self.config, self.dtype)
        n_layers = self.sizes["n_layers"]
        self._blocks_path = _blocks_path(model, n_layers)
        listed = model.get_submodule(self._blocks_path)
        assert isinstance(listed, nn.ModuleList)  # `_blocks_path` looks for one
        self._listed = listed
        # ALBERT runs a block many times: of each layer, the number of its block in the list.
        self._order = [layer * len(self._listed) // n_layers for layer in range(n_layers)]
        self.blocks = nn.ModuleList(self._listed[number] for number in self._order)
        self._weights = MappedWeights(
            *(checkpoint, model, self._blocks_path, self._order), self.dtype, self.device
        )
        # A plain embedding looks rows up in the checkpoint's own dtype: converting the rows
        # afterwards gives the same numbers as converting the table, without its memory.
        tables = {
            f"{name}.weight": module
            for name, module in model.named_modules()
            if type(module).forward is nn.Embedding.forward
        }
        self._tables = set(tables)
        for module in tables.values():
            module.register_forward_hook(lambda module, args, output: output.to(self.dtype))
        self._around: dict[str, dict[str, Tensor]] = {}
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if not buffer.is_meta:  # a checkpoint has its values
                    setattr(module, name, buffer.to(self.device))

    def weights_of_blocks(self, blocks: range) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The weights of consecutive blocks; see `MappedWeights.of_blocks`."""
        return self._weights.of_blocks(blocks)

    def block_weights(self, layer: int) -> dict[str, Tensor]:
        """The weights of one block; see `MappedWeights.of_block`."""
        return self._weights.of_block(layer)

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
        return hidden_state(self._called(layer, weights, hidden, call))

    def _called(self, layer: int, weights: dict[str, Tensor], hidden: Tensor, call: Call) -> Any:
        """What a block returns."""
        block = self.blocks[layer]
        return functional_call(
            block, _as_parameters(block, weights), (hidden, *call.args), call.kwargs
        )

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
        returned = self._first_block[0]
        seen: list[tuple[Tensor, Call]] = []

        def note(hidden: Tensor, call: Call) -> Any:
            seen.append((hidden, call))
            if not _same(hidden, seen[0][0]):
                raise MicrotomeError(
                    f"{self.config.model_type}: the model changes the hidden state between its "
                    "blocks and cannot be swept; take another model"
                )
            if len(seen) == n_blocks:
                raise Stop
            return returned(hidden)

        self._run_without_blocks(ids, note)
        if len(seen) < n_blocks:
            raise MicrotomeError(
                f"{self.config.model_type}: on text alone the model leaves out some of its blocks "
                "and cannot be swept; take another model"
            )
        hidden = seen[0][0]
        if self.stream(hidden).shape != (*ids.shape, self.sizes["d_model"]):
            raise MicrotomeError(
                f"{self.config.model_type}: its blocks are handed {tuple(hidden.shape)}, not one "
                "hidden state per token, and cannot be swept; take another model"
            )
        return hidden, [call for _, call in seen]

    @cached_property
    @torch.no_grad()
    def _first_block(self) -> tuple[Callable[[Tensor], Any], bool, torch.dtype]:
        """What the first block tells, run once on two texts that begin alike.

        How a block returns a hidden state, which varies by family and version of transformers;
        whether a token's values are the same whatever follows it; and the dtype of the hidden
        state, which some compute in float32 where all else is in half precision.
        """
        told = []

        def ask(hidden: Tensor, call: Call) -> None:
            output = self._called(0, self.block_weights(0), hidden, call)
            left = hidden_state(output)
            causal = torch.equal(left[0, 0], left[1, 0])
            bare = isinstance(output, Tensor)
            # Some models unpack what else there might be, as attention weights.
            nothing = () if bare or any(rest is not None for rest in output[1:]) else output[1:]
            told.append(((lambda h: h if bare else (h, *nothing)), causal, left.dtype))
            raise Stop

        self._run_without_blocks(torch.tensor([[1, 2], [1, 3]]), ask)
        return told[0]

    @property
    def is_causal(self) -> bool:
        """Whether the first block gives a token the same values whatever follows it."""
        return self._first_block[1]

    @property
    def hidden_dtype(self) -> torch.dtype:
        """The dtype of the hidden state that blocks return."""
        return self._first_block[2]

    def stream(self, hidden: Tensor) -> Tensor:
        """The residual stream in what blocks hand on, (batch, position, d_model).

        Gemma 3n has several streams side by side, of which one is changed by attention and MLP.
        """
        active = getattr(self.config.get_text_config(), "altup_active_idx", None)
        return hidden if active is None else hidden[active]

    def require_one_stream(self, what: str) -> None:
        """Refuse a model whose blocks hand on several streams.

        Args:
            what: for whom one is wanted, for the message.

        Raises:
            MicrotomeError: it has several.
        """
        hidden, _ = self.record(torch.tensor([[1]]), 1)
        if hidden is not self.stream(hidden):
            raise MicrotomeError(
                f"{self.config.model_type}: its blocks hand on several streams, of which the sites "
                f"are one; {what} wants another model"
            )

    def finish(self, ids: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """Run what comes after the blocks.

        Args:
            ids: token ids, (batch, position).
            hidden: the hidden state after the last block, (batch, position, d_model).

        Returns:
            The final norm's output or, where there is none, `hidden`, (batch, position, d_model);
            and the logits, (batch, position, d_vocab), or None without head.
        """
        returned = self._first_block[0]
        normed = []
        with ExitStack() as hooks:
            # What loops over the blocks, and what calls that, up to the base model. The head reads
            # what the outermost returns that is called; some heads call an inner one.
            for module in self._around_blocks():
                hooks.enter_context(
                    module.register_forward_hook(
                        lambda module, args, output: normed.append(hidden_state(output))
                    )
                )
            output = self._run_without_blocks(
                ids, lambda entering, call: returned(hidden), head=True
            )
        return normed[-1], None if self.head == "none" else output.logits

    def _around_blocks(self) -> Iterator[nn.Module]:
        """The modules that hold the blocks and not the head, outwards."""
        path = self._blocks_path
        while path:
            path = path.rpartition(".")[0]
            module = self._model.get_submodule(path)
            head = getattr(module, "get_output_embeddings", lambda: None)()
            if head is not None or (not path and self.head != "none"):
                return
            yield module

    def hold_head(self) -> None:
        """Read the weights that `finish` runs with now, and keep them, rather than at each call."""
        self._around[""] = self._weights.around_blocks("", self._tables)

    def _run_without_blocks(
        self, ids: Tensor, stand_in: Callable[[Tensor, Call], Any], *, head: bool = False
    ) -> Any:
        """Run the model, up to a `Stop` if there is one, with a function in place of each block.

        Args:
            ids: token ids, (batch, position).
            stand_in: called with a block's hidden state and other arguments.
            head: whether the run goes beyond the base model, so that the head needs weights.

        Returns:
            The model's output, or None after a `Stop`.
        """
        # A model without head is the base model itself.
        bare = head or self.head == "none"
        within = "" if bare else f"{self._blocks_path.partition('.')[0]}."
        weights = self._around.get(within)
        if weights is None:
            weights = self._weights.around_blocks(within, self._tables)
            if self.device.type == "cuda":  # on the CPU pages of mapped ones would stay resident
                self._around[within] = weights
        coming = iter(self._order)

        def in_turn(number: int, hidden: Tensor, call: Call) -> Any:
            if number != next(coming, None):
                raise MicrotomeError(
                    f"{self.config.model_type}: the model does not run its blocks one after "
                    "another and cannot be swept; take another model"
                )
            return stand_in(hidden, call)

        parent, _, attribute = self._blocks_path.rpartition(".")
        owner = self._model.get_submodule(parent)
        stand_ins = [StandIn(block, partial(in_turn, n)) for n, block in enumerate(self._listed)]
        setattr(owner, attribute, nn.ModuleList(stand_ins))
        try:
            # Tied weights are given under each of their names: the head wants the dtype
            # of computation, the embedding table keeps the checkpoint's dtype.
            return functional_call(
                self._model,
                _as_parameters(self._model, weights),
                kwargs={"input_ids": ids.to(self.device), "use_cache": False},
                tie_weights=False,
            )
        except Stop:
            return None
        except _MISFITS as error:
            fault = "its blocks are given or return more than a hidden state"
            if sees_or_hears(self.config) and next(coming, None) == self._order[0]:
                fault = "the model does not run on text alone"
            how = in_short(f"{type(error).__name__}: {error}")
            raise MicrotomeError(
                f"{self.config.model_type}: {fault} ({how}) and cannot be swept; take another model"
            ) from error
        finally:
            setattr(owner, attribute, self._listed)


def _same(hidden: Tensor, other: Tensor) -> bool:
    return hidden is other or torch.equal(hidden, other)


def hidden_state(output: Any) -> Tensor:
    """The hidden state in what a module returns: all of it, or its first element."""
    return output if isinstance(output, Tensor) else output[0]


def _as_parameters(module: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A module's weights as the parameters they are in a model that is loaded as a whole.

    The last bits depend on it: torch.matmul takes another way for factors that want a gradient.
    """
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return {
        name: nn.Parameter(weight) if name in parameters else weight
        for name, weight in weights.items()
    }


def _blocks_path(model: nn.Module, n_layers: int) -> str:
    """The path of the model's list of blocks: the outermost one of that length.

    If there is none, it is the one list of blocks that may each be run as often as the others.
    """
    lists = {n: len(m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList)}
    exact = _outermost([path for path, length in lists.items() if length == n_layers])
    found = exact or [p for p in _outermost(lists) if lists[p] and n_layers % lists[p] == 0]
    if len(found) != 1:
        raise MicrotomeError(
            f"{type(model).__name__}: {len(found)} lists of {n_layers} blocks, expected one; "
            "take another model"
        )
    return found[0]


def _outermost(paths: Collection[str]) -> list[str]:
    """Those paths that lie inside no other one."""
    return [p for p in paths if not any(p.startswith(f"{other}.") for other in paths)]
