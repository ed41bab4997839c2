"""Reading the sites of a block while it runs, and giving each its dimensions."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from microtome.errors import MicrotomeError
from microtome.models.mapped import hidden_state
from microtome.models.taps import Tap
from microtome.sites import DIMENSIONS
from microtome.sweeps.batches import RowSelection


@contextmanager
def reading(
    block: nn.Module,
    taps: Mapping[str, Tap],
    selection: RowSelection,
    values: dict[str, Tensor],
    *,
    leave: bool,
) -> Iterator[None]:
    """Note what passes a block's sites while it runs.

    Args:
        block: the block.
        taps: the sites to read.
        selection: what is kept of the batch's tokens.
        values: receives each site's values, (n, width).
        leave: whether the block is left after the last site; what remains of it is then not run.

    Raises:
        MicrotomeError: a tap that leads nowhere.
    """

    def note(site: str, value: Any) -> None:
        values[site] = selection(hidden_state(value))
        if leave and taps.keys() <= values.keys():
            raise _AllRead

    with ExitStack() as hooks:
        for site, tap in taps.items():
            try:
                module = block.get_submodule(tap.path)
            except AttributeError:
                raise MicrotomeError(
                    f"site {site!r}: {type(block).__name__} has no module {tap.path!r}; "
                    "correct its entry in microtome/models/architectures.py"
                ) from None
            if tap.side == "output":
                hook = module.register_forward_hook(
                    lambda module, args, output, site=site: note(site, output)
                )
            else:
                hook = module.register_forward_pre_hook(
                    lambda module, args, site=site: note(site, args)
                )
            hooks.callback(hook.remove)
        with suppress(_AllRead):
            yield


class _AllRead(Exception):
    """Leaves a block when its last site has been read."""


def shaped(site: str, value: Tensor, tap: Tap | None, sizes: Mapping[str, int]) -> np.ndarray:
    """Cut a site's part out of (n, width) and give it the site's dimensions.

    Args:
        site: its name.
        value: what was read there, (n, width).
        tap: where it was read; None at a block's ends and after the last block.
        sizes: the model's dimensions, as `microtome.models.checkpoint.sizes` names them.

    Returns:
        (n, …) with the site's `DIMENSIONS`, float32.

    Raises:
        MicrotomeError: the width is not that of the site.
    """
    if tap is not None and tap.part is not None:
        value = _part(value, tap, sizes)
    shape = [sizes[dimension] for dimension in DIMENSIONS[site]]
    try:
        return value.reshape(len(value), *shape).to("cpu", torch.float32).numpy()
    except RuntimeError:
        remedy = "correct microtome/models/architectures.py" if tap else "leave this site out"
        raise MicrotomeError(
            f"site {site!r}: shape {tuple(value.shape)} where tokens × "
            f"{' × '.join(map(str, shape))} was expected; {remedy}"
        ) from None


def _part(value: Tensor, tap: Tap, sizes: Mapping[str, int]) -> Tensor:
    n_heads, n_kv_heads, d_head = sizes["n_heads"], sizes["n_kv_heads"], sizes["d_head"]
    which = "qkv".index(tap.part)
    if tap.fused == "heads":
        return value.unflatten(-1, (n_heads, 3, d_head))[..., which, :]
    return value.split([d_head * n for n in (n_heads, n_kv_heads, n_kv_heads)], dim=-1)[which]
