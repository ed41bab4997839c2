"""What blocks are called with, noted by stand-ins that take their places in the model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from microtome.errors import MicrotomeError


@dataclass
class Call:
    """What a block is called with besides the hidden state: masks, rotary positions, flags."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def versions(self) -> Any:
        """What differs once a block has changed an argument in place for a later one to read."""
        # torch counts a tensor's version up with each change in place.
        return _of_tensors((self.args, self.kwargs), lambda tensor: (id(tensor), tensor._version))

    def shapes(self) -> Any:
        """What differs if an argument depends on the number of texts."""
        return _of_tensors((self.args, self.kwargs), lambda tensor: tensor.shape)


def _of_tensors(value: Any, tell: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, Tensor):
        return tell(value)
    if isinstance(value, Mapping):
        return {key: _of_tensors(held, tell) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_of_tensors(held, tell) for held in value]
    return None


def first_tensor(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The first argument of a module if it is a tensor, by position or else by name."""
    first = args[0] if args else next(iter(kwargs.values()), None)
    return first if isinstance(first, Tensor) else None


class SharedTensors:
    """The tensors that the calls of many batches have in common, each kept once.

    A model makes masks and positions for every batch; in eager attention a mask has batch × length
    × length numbers. Texts are not padded, so the rows of a mask are equal, and the mask of shorter
    texts is a corner of that of longer ones. Such tensors become views of those of the first batch.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._kept: list[Tensor] = []
        self._versions: list[int] = []

    def of(self, calls: list[Call]) -> list[Call]:
        """The calls of a batch with views in the place of tensors that the first batch has too.

        Args:
            calls: of all blocks. The first batch should be that of the longest texts.
        """
        is_first = not self._versions
        views: dict[int, Tensor] = {}  # most blocks are called with the same tensors

        def shared(value: Any) -> Any:
            if isinstance(value, Tensor):
                if id(value) not in views:
                    views[id(value)] = self._view(value, is_first)
                return views[id(value)]
            if type(value) is tuple:
                return tuple(map(shared, value))
            return value  # a mapping may be one that blocks write to

        found = [
            Call(shared(call.args), {name: shared(held) for name, held in call.kwargs.items()})
            for call in calls
        ]
        if is_first:
            self._versions = [tensor._version for tensor in self._kept]
        return found

    def refuse_changed(self, architecture: str) -> None:
        """Raise a MicrotomeError if a block has changed one in place, which other batches read."""
        if [tensor._version for tensor in self._kept] != self._versions:
            raise MicrotomeError(
                f"{architecture}: its blocks change their masks or positions, which batches share; "
                "take another model"
            )

    def _view(self, tensor: Tensor, keep: bool) -> Tensor:
        own = tensor
        if (
            tensor.ndim > 1
            and len(tensor) > 1
            and torch.equal(tensor[:1].expand_as(tensor), tensor)
        ):
            own = tensor[:1].clone()  # a view would hold all rows
        for kept in self._kept:
            if _begins_with(kept, own):
                return kept[tuple(map(slice, own.shape))].expand_as(tensor)
        if keep:
            self._kept.append(own)
        return own.expand_as(tensor)


def _begins_with(kept: Tensor, tensor: Tensor) -> bool:
    """Whether a tensor's numbers are those at the beginning of another along every axis."""
    return (
        (kept.ndim, kept.dtype, kept.device) == (tensor.ndim, tensor.dtype, tensor.device)
        and all(most >= n for most, n in zip(kept.shape, tensor.shape, strict=True))
        and torch.equal(kept[tuple(map(slice, tensor.shape))], tensor)
    )


class Stop(Exception):
    """Leaves a forward whose remainder is not wanted."""


class StandIn(nn.Module):
    """Takes a block's place in its model and hands each call to a function."""

    def __init__(self, block: nn.Module, function: Callable[[Tensor, Call], Any]) -> None:
        """Stand in for a block; the function returns what the model is to take for its output."""
        super().__init__()
        # Kept out of the module's children: the block's weights are not to be asked for.
        self.__dict__.update(block=block, function=function)

    def __getattr__(self, name: str) -> Any:
        """Look up what the block has; some models read attributes of their blocks."""
        return getattr(self.__dict__["block"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Hand on the hidden state, and the other arguments as a `Call`."""
        if not args:
            args = (kwargs.pop("hidden_states"),)
        return self.function(args[0], Call(args[1:], kwargs))
