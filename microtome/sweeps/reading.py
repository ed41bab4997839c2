"""Reading the sites of a block while it runs, and giving each its dimensions."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from microtome.errors import MicrotomeError
from microtome.models.attention import Attended, attending
from microtome.models.mapped import hidden_state
from microtome.models.taps import Tap
from microtome.sites import DIMENSIONS, KEYED_SITES
from microtome.sweeps.batches import RowSelection


@contextmanager
def visiting(
    block: nn.Module, taps: Mapping[str, Tap], visit: Callable[[str, Tensor], Tensor | None]
) -> Iterator[None]:
    """Call a function with what passes a block's sites while it runs.

    Args:
        block: the block.
        taps: the sites to visit.
        visit: called with a site and the tensor there, (batch, position, width); a tensor that it
            returns takes that one's place, but not where attention is called.

    Raises:
        MicrotomeError: a tap that leads nowhere.
    """

    def at_output(site: str, output: Any) -> Any:
        new = visit(site, hidden_state(output))
        if new is None or isinstance(output, Tensor):
            return new
        return (new, *output[1:])

    def at_input(site: str, args: tuple[Any, ...]) -> Any:
        new = visit(site, hidden_state(args))
        return None if new is None else (new, *args[1:])

    def at_attention(sites: list[str], call: Attended) -> None:
        for site in sites:
            visit(site, call.site(site))

    attended: dict[nn.Module, list[str]] = {}
    with ExitStack() as hooks:
        for site, tap in taps.items():
            try:
                module = block.get_submodule(tap.path)
            except AttributeError:
                raise MicrotomeError(
                    f"site {site!r}: {type(block).__name__} has no module {tap.path!r}; "
                    "correct its entry in microtome/models/architectures.py"
                ) from None
            if tap.side == "attention":
                attended.setdefault(module, []).append(site)
                continue
            if tap.side == "output":
                hook = module.register_forward_hook(
                    lambda module, args, output, site=site: at_output(site, output)
                )
            else:
                hook = module.register_forward_pre_hook(
                    lambda module, args, site=site: at_input(site, args)
                )
            hooks.callback(hook.remove)
        for module, sites in attended.items():
            hooks.enter_context(attending(module, partial(at_attention, sites)))
        yield


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
        MicrotomeError: a tap that leads nowhere, or that nothing passes.
    """

    def note(site: str, value: Tensor) -> None:
        values[site] = selection(value)
        if leave and taps.keys() <= values.keys():
            raise _AllRead

    with visiting(block, taps, note), suppress(_AllRead):
        yield
    unread = [site for site in taps if site not in values]
    if unread:
        path = taps[unread[0]].path
        raise MicrotomeError(
            f"site {unread[0]!r}: nothing passes {path!r} of {type(block).__name__}; leave it out"
        )


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
    try:
        return part(site, value, tap, sizes).to("cpu", torch.float32).numpy()
    except RuntimeError:
        shape = (sizes[dimension] for dimension in DIMENSIONS[site])
        remedy = "correct microtome/models/architectures.py" if tap else "leave this site out"
        raise MicrotomeError(
            f"site {site!r}: shape {tuple(value.shape)} where tokens × "
            f"{' × '.join(map(str, shape))} was expected; {remedy}"
        ) from None


def part(site: str, value: Tensor, tap: Tap | None, sizes: Mapping[str, int]) -> Tensor:
    """A site's part of the tensor that is there: a view, (…, *the site's dimensions).

    Args:
        site: its name.
        value: what was read there, (…, width).
        tap: where; None at a block's ends and after the last block.
        sizes: the model's dimensions.

    Raises:
        RuntimeError: the width is not that of the site.
    """
    if tap is not None and tap.part is not None:
        n_heads, n_kv_heads, d_head = sizes["n_heads"], sizes["n_kv_heads"], sizes["d_head"]
        which = "qkv".index(tap.part)
        if tap.fused == "heads":
            return value.unflatten(-1, (n_heads, 3, d_head))[..., which, :]
        widths = [d_head * n for n in (n_heads, n_kv_heads, n_kv_heads)]
        value = value.split(widths, dim=-1)[which]
    if site in KEYED_SITES:
        value = value.unflatten(-1, (sizes["n_heads"], -1))
        return nn.functional.pad(value, (0, sizes["key"] - value.shape[-1]), value=torch.nan)
    if site == "k_rot":  # some models call attention with each key as often as heads share it
        return value.unflatten(-1, (sizes["n_kv_heads"], -1, sizes["d_head"]))[..., 0, :]
    return value.unflatten(-1, [sizes[dimension] for dimension in DIMENSIONS[site]])
