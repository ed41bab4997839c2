"""What attention is called with inside a block, noted while the block runs, without changing a bit.

Most architectures of transformers look their attention function up in its `AttentionInterface`.
What is found there is called as it is, and its query, key, value and output are noted. Others have
code of their own: of these, the products before and after the softmax are noted. In both, scores
and pattern are the input and output of the softmax, or are computed from the arguments of
`scaled_dot_product_attention`, which shows neither.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface

from microtome.sites import ATTENTION_SITES

#: Masks add this or less: -1e4 in OpenAI's GPT, elsewhere the smallest number of the dtype.
FAR = -5e3
#: Largest error of `check`, relative to the largest number there.
TOLERANCE = 1e-5

_SOFTMAX = {functional.softmax, torch.softmax, Tensor.softmax}
_PRODUCTS = {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm}
_PRODUCTS |= {torch.baddbmm, Tensor.baddbmm, torch.einsum}
_DIFFERENCES = {torch.sub, Tensor.sub, Tensor.__sub__}
_CASTS = {Tensor.float, Tensor.to}


@dataclass(frozen=True)
class Attended:
    """One call of attention.

    Attributes:
        query: (batch, n_heads, position, width).
        key: (batch, heads, key, width); heads share keys, or have each their own.
        value: (batch, heads, key, width of values), likewise.
        output: what the heads read out, (batch, n_heads, position, width of values).
        own_code: whether the architecture does without the interface, so that query and key are
            the factors of the last product before the softmax.
        softmax: gives what the softmax was taken of and its result, in any dtype and in any shape
            of as many numbers.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    own_code: bool
    softmax: Callable[[], tuple[Tensor, Tensor]]

    @property
    def scores(self) -> Tensor:
        """What the softmax was taken of, (batch, n_heads, position, key), float32.

        NaN for keys beyond the token's reach.
        """
        return self._weights[0]

    @property
    def pattern(self) -> Tensor:
        """The softmax of the scores, in the same form, without the share of a sink."""
        return self._weights[1]

    @cached_property
    def _weights(self) -> list[Tensor]:
        scores, pattern = self.softmax()
        n_keys = scores.shape[-1]
        # A single token's heads may lie along the axis of positions.
        shape = (*self.query.shape[:3], n_keys)
        scores, pattern = (x[..., :n_keys].float().reshape(shape) for x in (scores, pattern))
        beyond = (pattern == 0) & (scores <= FAR)
        # Other NaN come of damaged weights: made infinite, they are not taken for absent keys.
        return [
            tensor.nan_to_num(torch.inf, torch.inf, -torch.inf).masked_fill_(beyond, torch.nan)
            for tensor in (scores, pattern)
        ]

    def site(self, name: str) -> Tensor:
        """The values of a site, (batch, position, width)."""
        of = {"q_rot": "query", "k_rot": "key"}.get(name, name)
        return getattr(self, of).transpose(1, 2).flatten(2)


@contextmanager
def attending(module: nn.Module, see: Callable[[Attended], None]) -> Iterator[None]:
    """Note the calls of attention inside a module while it runs.

    Args:
        module: a block's attention.
        see: called after each call of attention.
    """
    observer = _Observer(see)
    found = AttentionInterface.get_interface

    def get_interface(interface: AttentionInterface, name: str, default: Any) -> Any:
        return partial(observer.called, found(interface, name, default))

    enter = module.register_forward_pre_hook(observer.enter, with_kwargs=True)
    leave = module.register_forward_hook(observer.leave)
    # A registered function of our own would lose the default, the model's own eager attention. The
    # method itself is replaced, which mypy takes for a mistake.
    AttentionInterface.get_interface = get_interface  # type: ignore[assignment, method-assign]
    try:
        with observer:
            yield
    finally:
        AttentionInterface.get_interface = found  # type: ignore[method-assign]
        enter.remove()
        leave.remove()


class _Observer(TorchFunctionMode):
    """Sees every function of torch that is called, and picks those of attention."""

    def __init__(self, see: Callable[[Attended], None]) -> None:
        super().__init__()
        self._see = see
        self._batch: int | None = None  # None outside of the module
        self._in_interface = False
        self._factors: tuple[Tensor, Tensor] | None = None
        self._softmax: Callable[[], tuple[Tensor, Tensor]] | None = None
        self._n_weights = 0
        # What tensors were before something was done that leaves the scores as they are.
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._batch = len(args[0] if args else kwargs["hidden_states"])

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._batch = None
        self._forget()

    def called(
        self,
        function: Callable[..., tuple[Tensor, Any]],
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Any]:
        """Call an attention function of the interface."""
        self._forget()
        self._in_interface = True
        try:
            result = function(module, query, key, value, *args, **kwargs)
        finally:
            self._in_interface = False
        if self._batch is not None and self._softmax is not None:
            self._tell(query, key, value, result[0].transpose(1, 2), own_code=False)
        return result

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if self._batch is not None:
            self._note(function, args, kwargs or {}, result)
        return result

    def _note(self, function: Any, args: Sequence[Any], kwargs: Any, result: Any) -> None:
        if function in _SOFTMAX:
            scores = args[0]
            while id(scores) in self._before:
                scores = self._before[id(scores)][1]
            self._softmax, self._n_weights = lambda: (scores, result), result.numel()
        elif function is functional.scaled_dot_product_attention:
            self._softmax = partial(_softmax_of, *args, **kwargs)
            if not self._in_interface:
                query, key, value = islice((*args, *kwargs.values()), 3)
                self._tell(query, key, value, result, own_code=True)
        elif function is torch.cat:
            self._before[id(result)] = result, (*args, *kwargs.values())[0][0]  # before a sink's
        elif function in _DIFFERENCES and getattr(args[-1], "shape", ())[-1:] == (1,):
            self._before[id(result)] = result, args[0]  # the same subtracted for all keys
        elif function in _CASTS and result is not args[0]:
            self._before[id(result)] = result, args[0]
        elif function in _PRODUCTS and not self._in_interface:
            *_, first, second = (v for v in (*args, *kwargs.values()) if isinstance(v, Tensor))
            if self._factors and self._softmax and first.numel() == self._n_weights:
                query, key = self._factors
                self._tell(query, key.mT, second, result, own_code=True)
            else:
                self._factors = first, second

    def _tell(
        self, query: Tensor, key: Tensor, value: Tensor, output: Tensor, *, own_code: bool
    ) -> None:
        softmax, batch = self._softmax, self._batch if own_code else len(query)
        assert softmax is not None and batch is not None  # told of after both are known
        self._forget()
        try:
            query, key, value, output = (
                tensor.reshape(batch, -1, *tensor.shape[-2:])
                for tensor in (query, key, value, output)
            )
        except RuntimeError:
            return  # attention in chunks, or something else than attention
        self._see(Attended(query, key, value, output, own_code, softmax))

    def _forget(self) -> None:
        self._factors = self._softmax = None
        self._before.clear()


def _softmax_of(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor]:
    """What `scaled_dot_product_attention` takes the softmax of, and its result, in float32."""
    key = repeated(key, query.shape[1]) if enable_gqa else key
    scores = query.float() @ key.float().mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores, torch.softmax(scores, dim=-1)


def repeated(tensor: Tensor, n_heads: int) -> Tensor:
    """Keys or values, (batch, heads, …), of which each head gets its own."""
    return tensor.repeat_interleave(n_heads // tensor.shape[1], dim=1)


def check(calls: Sequence[Attended], sizes: Mapping[str, int]) -> dict[str, str]:
    """Tell which sites of attention are not what their names say, and why.

    Args:
        calls: what was noted while a block's attention ran once in float32, on at least two
            texts of different tokens.
        sizes: the model's dimensions, as `microtome.models.checkpoint.sizes` names them.

    Returns:
        A reason for each of `ATTENTION_SITES` that cannot be read; none if all can.
    """
    if not calls:
        return dict.fromkeys(ATTENTION_SITES, "no softmax of products is seen")
    if len(calls) > 1:
        return dict.fromkeys(ATTENTION_SITES, f"attention is called {len(calls)} times")
    try:
        return _faults(calls[0], sizes)
    except RuntimeError:  # shapes that do not fit each other
        return dict.fromkeys(ATTENTION_SITES, "what is multiplied is not heads × tokens × width")


def _faults(call: Attended, sizes: Mapping[str, int]) -> dict[str, str]:
    n_heads, n_kv_heads, d_head = sizes["n_heads"], sizes["n_kv_heads"], sizes["d_head"]
    _, found, n_positions, n_keys = call.scores.shape
    if found != n_heads or n_keys != n_positions:
        what = f"scores are {found} × {n_positions} × {n_keys}, not heads × tokens × tokens"
        return dict.fromkeys(ATTENTION_SITES, what)
    wrong = {}
    for site, tensor, heads in (
        ("q_rot", call.query, {n_heads}),
        ("k_rot", call.key, {n_heads, n_kv_heads}),
    ):
        if tensor.shape[1] not in heads or tensor.shape[3] != d_head:
            shape = f"{tensor.shape[1]} × {tensor.shape[3]}"
            wrong[site] = f"attention is called with {shape} numbers, not heads × {d_head}"
    if not wrong and n_kv_heads < n_heads == call.key.shape[1]:
        first = call.key[:, :: n_heads // n_kv_heads]
        if not torch.equal(repeated(first, n_heads), call.key):
            wrong["k_rot"] = "heads of one group have different keys"
    if call.own_code and not _explained(call):
        what = "scores are not a product of what is multiplied before the softmax"
        wrong |= dict.fromkeys(("q_rot", "k_rot"), what)
    read_out = call.pattern.nan_to_num(0) @ repeated(call.value, n_heads).float()
    if read_out.shape != call.output.shape or not _close(read_out, call.output):
        wrong |= dict.fromkeys(("scores", "pattern"), "pattern · v is not what attention reads out")
    return wrong


def _explained(call: Attended) -> bool:
    """Whether scores are query · key times a number, plus what does not depend on the text."""
    products = call.query.float() @ repeated(call.key, call.query.shape[1]).float().mT
    if products.shape != call.scores.shape:
        return False
    scores, products = (torch.diff(tensor, dim=0) for tensor in (call.scores, products))
    seen = ~scores.isnan()
    scores, products = scores[seen], products[seen]
    return _close(products * (scores @ products) / (products @ products), scores)


def _close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= TOLERANCE * other.abs().max())
