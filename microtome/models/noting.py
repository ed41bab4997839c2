"""What passes through a block's modules, and what attention is called with, noted while it runs.

`microtome.models.anatomy` finds a model's sites by it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from microtome.models.attention import Attended, attending
from microtome.models.calls import first_tensor
from microtome.models.taps import Tap

#: Random texts and their length. All begin at position 0, where rotary positions change nothing.
TEXTS, LENGTH = 13, 3


@dataclass(frozen=True)
class Passed:
    """One call of a module: when, and what went in and out, (text × position, width)."""

    path: str
    module: nn.Module
    start: int
    end: int
    given: Tensor | None
    returned: Tensor | None
    weight: Tensor | None  # the matrix that it multiplies with
    output: Any  # what it returned, which later modules may have changed
    version: int  # of the output at that time

    @property
    def depth(self) -> int:
        """How deep inside of the block the module lies."""
        return self.path.count(".")

    def tap(self, side: Literal["input", "output"] = "output", **layout: Any) -> Tap:
        """Where it is read; `layout` as in `Tap`."""
        changed = side == "output" and self.version != getattr(self.output, "_version", 0)
        return Tap(self.path, side, **layout, changed=changed)


@dataclass(frozen=True)
class Projection(Passed):
    """A call of a module that multiplies what goes in with a matrix."""

    given: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Called:
    """One call of attention: in which module, when, and with what."""

    path: str
    time: int
    attended: Attended


class Noting:
    """Notes every call of a block's modules, and every call of attention inside them.

    Attributes:
        passed: the calls of modules, as they ended.
        called: the calls of attention.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.passed: list[Passed] = []
        self.called: list[Called] = []
        self._time = 0
        self._inside: list[tuple[str, int, Tensor | None]] = []

    @contextmanager
    def of(self, block: nn.Module) -> Iterator[None]:
        """Note what passes while a block runs."""
        with ExitStack() as hooks:
            for path, module in block.named_modules():
                if path:
                    before, after = partial(self._before, path), self._after
                    handle = module.register_forward_pre_hook(before, with_kwargs=True)
                    hooks.callback(handle.remove)
                    hooks.callback(module.register_forward_hook(after).remove)
            with attending(block, self._called):
                yield

    def _before(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._time += 1
        given = first_tensor(args, kwargs)
        self._inside.append((path, self._time, None if given is None else as_rows(given)))

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        self._time += 1
        path, start, given = self._inside.pop()
        first = output if isinstance(output, Tensor) else next(iter(output or ()), None)
        weight = getattr(module, "weight", None)  # only there while the block runs
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            weight = None
        returned, version = None, 0
        if isinstance(first, Tensor):
            returned, version = as_rows(first), first._version
            if returned is not None and first.ndim == 4 and first.shape[1] not in (1, LENGTH):
                weight = None  # heads come before tokens, which no tap can say
        call = (path, module, start, self._time)
        self.passed.append(
            Passed(*call, given, returned, weight, first, version)
            if given is None or weight is None
            else Projection(*call, given, returned, weight, first, version)
        )

    def _called(self, attended: Attended) -> None:
        self._time += 1
        path = self._inside[-1][0] if self._inside else ""
        self.called.append(Called(path, self._time, attended))


def as_rows(tensor: Tensor) -> Tensor | None:
    """Bring a tensor to (text × position, width), heads side by side; None if it cannot be."""
    if tensor.ndim == 4 and tensor.shape[0] == TEXTS and tensor.shape[2] == LENGTH:
        tensor = tensor.transpose(1, 2)
    if tensor.ndim > 2 and tensor.shape[:2] == (TEXTS, LENGTH):
        tensor = tensor.flatten(0, 1)
    if tensor.ndim < 2 or len(tensor) != TEXTS * LENGTH or not tensor.is_floating_point():
        return None
    return tensor.flatten(1).float().clone()  # a later module may change it in place
