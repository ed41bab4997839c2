"""Reading the sites of a block while it runs, and giving each its dimensions."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from microtome.errors import MicrotomeError
from microtome.models.attention import Attended, attending
from microtome.models.calls import first_tensor
from microtome.models.mapped import hidden_state
from microtome.models.taps import Tap
from microtome.sites import KEYED_SITES, shape
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

    tokens: list[int] = []  # of how many texts, of what length

    def entered(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = first_tensor(args, kwargs)
        assert hidden is not None  # a block is called with it
        tokens[:] = hidden.shape[-3:-1]

    def seen(site: str, passing: Tensor) -> Tensor | None:
        scale = taps[site].scale
        # Some modules are given the tokens of all texts in one row.
        values = passing.reshape(*tokens, -1)
        if scale != 1:
            values = values * scale
        elif taps[site].changed:
            values = values.clone()
        new = visit(site, values)
        if new is None:
            return None
        return (new if scale == 1 else new / scale).reshape(passing.shape)

    def at_output(site: str, output: Any) -> Any:
        new = seen(site, hidden_state(output))
        if new is None or isinstance(output, Tensor):
            return new
        return type(output)((new, *output[1:]))

    def at_input(site: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = None if args else next(iter(kwargs))
        new = seen(site, args[0] if name is None else kwargs[name])
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if name is None else (args, kwargs | {name: new})

    def at_attention(sites: list[str], call: Attended) -> None:
        for site in sites:
            visit(site, call.site(site))

    attended: dict[nn.Module, list[str]] = {}
    with ExitStack() as hooks:
        hooks.callback(block.register_forward_pre_hook(entered, with_kwargs=True).remove)
        for site, tap in taps.items():
            path = tap.path_in(block)
            if path is None:
                raise MicrotomeError(
                    f"site {site!r}: {type(block).__name__} has no module {tap.path!r}; "
                    "correct its entry in microtome/models/architectures.py"
                )
            module = block.get_submodule(path)
            if tap.side == "attention":
                attended.setdefault(module, []).append(site)
                continue
            if tap.side == "output":
                hook = module.register_forward_hook(
                    lambda module, args, output, site=site: at_output(site, output)
                )
            else:
                hook = module.register_forward_pre_hook(
                    lambda module, args, kwargs, site=site: at_input(site, args, kwargs),
                    with_kwargs=True,
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
        wanted = " × ".join(map(str, shape(site, sizes)))
        remedy = "correct microtome/models/architectures.py" if tap else "leave this site out"
        raise MicrotomeError(
            f"site {site!r}: shape {tuple(value.shape)} where tokens × {wanted} was expected; "
            f"{remedy}"
        ) from None


def part(site: str, value: Tensor, tap: Tap | None, sizes: Mapping[str, int]) -> Tensor:
    """A site's part of the tensor that is there, (…, the site's dimensions).

    It is a view, but for heads in groups with something else between them (see `put`).

    Args:
        site: its name.
        value: what was read there, (…, width).
        tap: where; None at a block's ends and after the last block.
        sizes: the model's dimensions.

    Raises:
        RuntimeError: the width is not that of the site.
    """
    dimensions = shape(site, sizes)
    if site in KEYED_SITES:
        value = value.unflatten(-1, (dimensions[0], -1))
        return nn.functional.pad(value, (0, sizes["key"] - value.shape[-1]), value=torch.nan)
    if site == "k_rot":  # some models call attention with each key as often as heads share it
        return value.unflatten(-1, (dimensions[0], -1, dimensions[1]))[..., 0, :]
    if tap is None:
        return value.unflatten(-1, dimensions)
    if tap.per > 1:
        return value[..., _columns(tap, *dimensions)]
    if tap.per:
        n_heads, width = dimensions
        return value[..., tap.start :].unfold(-1, width, tap.stride)[..., :n_heads, :]
    return value[..., tap.start : tap.start + prod(dimensions)].unflatten(-1, dimensions)


def put(value: Tensor, part: Tensor, tap: Tap) -> None:
    """Write a site's part back where `part` took it from, if that was no view.

    Args:
        value: what passes there, (…, width); changed in place.
        part: the site's part, (…, head, d_head).
        tap: where.
    """
    if tap.per > 1:
        value[..., _columns(tap, *part.shape[-2:])] = part


def _columns(tap: Tap, n_heads: int, width: int) -> Tensor:
    """The columns of each head, (head, d_head)."""
    head = torch.arange(n_heads)
    first = tap.start + head // tap.per * tap.stride + head % tap.per * width
    return first[:, None] + torch.arange(width)
