"""What passes through a block's modules, and what attention is called with, noted while it runs.

`microtome.models.anatomy` finds a model's sites by it.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from microtome.models.calls import first_tensor
from microtome.models.taps import Tap

#: Random texts and their length. All begin at position 0, where rotary positions change nothing.
TEXTS, LENGTH = 13, 3
#: Products of matrices, by the names of torch's functions.
_PRODUCTS = {"matmul", "__matmul__", "bmm", "baddbmm"}


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
class Attended:
    """One call of attention: when, and its arguments, (text × position, head, width)."""

    path: str
    time: int
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor


class Noting(TorchFunctionMode):
    """Notes every call of a block's modules, and every call of attention inside them."""

    def __init__(self, block: nn.Module) -> None:
        """Note nothing before it is entered."""
        super().__init__()
        self.passed: list[Passed] = []
        self.attended: list[Attended] = []
        self._time = 0
        self._inside: list[tuple[str, int, Tensor | None]] = []
        self._factors: tuple[int, Tensor, Tensor] | None = None  # of scores
        self._pattern: Tensor | None = None
        self._hooks = ExitStack()
        for path, module in block.named_modules():
            if path:
                before = partial(self._before, path)
                after = partial(self._after, path)
                for handle in (
                    module.register_forward_pre_hook(before, with_kwargs=True),
                    module.register_forward_hook(after),
                ):
                    self._hooks.callback(handle.remove)

    def __exit__(self, *error: Any) -> None:
        """Take the hooks away."""
        super().__exit__(*error)
        self._hooks.close()

    def _before(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._time += 1
        given = first_tensor(args, kwargs)
        self._inside.append((path, self._time, None if given is None else as_rows(given)))

    def _after(self, path: str, module: nn.Module, args: Any, output: Any) -> None:
        self._time += 1
        path, start, given = self._inside.pop()
        first = output if isinstance(output, Tensor) else next(iter(output or ()), None)
        returned = as_rows(first) if isinstance(first, Tensor) else None
        weight = getattr(module, "weight", None)  # only there while the block runs
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            weight = None
        version = first._version if isinstance(first, Tensor) else 0
        self.passed.append(
            Passed(path, module, start, self._time, given, returned, weight, first, version)
        )

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch, and note it if it is a part of attention."""
        kwargs = kwargs or {}
        output = function(*args, **kwargs)
        name = getattr(function, "__name__", "")
        if name == "scaled_dot_product_attention":
            query, key, value = (
                args[i] if i < len(args) else kwargs[of]
                for i, of in enumerate(("query", "key", "value"))
            )
            self._note(query, key, value, output)
        elif not isinstance(output, Tensor) or output.ndim < 3:
            pass
        elif name == "softmax":
            if self._factors and output.shape[-2] == LENGTH <= output.shape[-1] <= LENGTH + 1:
                self._pattern = output
        elif name in _PRODUCTS:
            given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            left, right = given[-2:]
            if output.shape[-2:] == (LENGTH, LENGTH) and left.shape[-1] != LENGTH:
                self._factors, self._pattern = (left, right.transpose(-1, -2)), None
            elif self._pattern is not None and left.shape[-2:] == (LENGTH, LENGTH):
                self._note(*self._factors, right, output)
                self._factors = self._pattern = None
        return output

    def _note(self, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> None:
        self._time += 1
        path = self._inside[-1][0] if self._inside else ""
        tensors = map(_heads, (query, key, value, output))
        self.attended.append(Attended(path, self._time, *tensors))


def as_rows(tensor: Tensor) -> Tensor | None:
    """Bring a tensor to (text × position, width), heads side by side; None if it cannot be."""
    if tensor.ndim == 4 and tensor.shape[0] == TEXTS and tensor.shape[2] == LENGTH:
        tensor = tensor.transpose(1, 2)
    if tensor.ndim > 2 and tensor.shape[:2] == (TEXTS, LENGTH):
        tensor = tensor.flatten(0, 1)
    if tensor.ndim < 2 or len(tensor) != TEXTS * LENGTH or not tensor.is_floating_point():
        return None
    return tensor.flatten(1).float().clone()  # a later module may change it in place


def _heads(tensor: Tensor) -> Tensor:
    """What attention is given, (text, head, position, width), as (token, head, width)."""
    if tensor.ndim == 3:
        tensor = tensor.unflatten(0, (TEXTS, -1))
    return tensor.transpose(1, 2).flatten(0, 1).float().clone()
