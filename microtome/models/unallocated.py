"""Modules made without memory for their weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Unallocated(TorchFunctionMode):
    """Has `torch.empty` make tensors on the meta device, while modules are made.

    Weights begin as empty tensors. accelerate puts them on the meta device too, but only once they
    have been allocated: the experts of a block of DeepSeek-V3 in one tensor are 30 GB, which the
    system may refuse.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch."""
        kwargs = kwargs or {}
        if func is torch.empty and kwargs.get("device") is None:
            kwargs = kwargs | {"device": "meta"}
        return func(*args, **kwargs)
