"""The sites inside one block, found by what passed through its modules while it ran once.

A site is what has its values: `attn_out` and `mlp_out` are what adds up to the residual stream,
`post` is what the nonlinearity makes of `pre`, and q, k and v are the columns of a projection that
attention is called with.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor
from transformers.activations import ACT2FN

from microtome.errors import MicrotomeError
from microtome.models.attention import check
from microtome.models.mapped import MappedModel
from microtome.models.matching import TOLERANCE, columns_of, has_column, multiple, same
from microtome.models.noting import LENGTH, TEXTS, Called, Noting, Passed, Projection
from microtome.models.taps import ENDS, Tap
from microtome.sites import ATTENTION_SITES, SITES, shape

#: Reasons of blocks that lack many sites.
NO_ATTENTION = "no attention in its blocks"
ONE_PART = "one module is all that its blocks add"


def _shape_of(call: Passed) -> tuple[int, int] | None:
    """How many numbers of a token a module is given, and how many it returns."""
    if call.given is None or call.returned is None:
        return None
    return call.given.shape[1], call.returned.shape[1]


def _summand(target: Tensor, calls: Iterable[Passed]) -> tuple[Passed, float] | None:
    """The first of some calls that returned a tensor but for a factor, and the factor."""
    for call in calls:
        factor = None if call.returned is None else multiple(target, call.returned)
        if factor is not None:
            return call, factor
    return None


class Block:
    """What passed through one block, and the sites found in it.

    Attributes:
        taps: the sites.
        absent: for others, why it has none.
    """

    def __init__(self, model: MappedModel, noted: Noting, before: Tensor, after: Tensor) -> None:
        """Take what a run noted.

        Args:
            model: the model.
            noted: the calls of modules and of attention.
            before: the residual stream that entered, (text × position, d_model).
            after: the one that left.
        """
        self._sizes, self._config = model.sizes, model.config.get_text_config()
        self._passed = sorted(noted.passed, key=lambda call: call.start)
        # Softmaxes of another kind, over streams say, are not called by the interface.
        by_interface = [called for called in noted.called if not called.attended.own_code]
        self._called = by_interface or noted.called
        self._before, self._after = before, after
        self._mlp: Passed | None = None
        # The MLP's modules are called later than this.
        self._mlp_from = max((called.time for called in self._called), default=0)
        self.taps: dict[str, Tap] = {}
        self.absent: dict[str, str] = {}

    def find(self) -> None:
        """Fill `taps` and `absent`."""
        if len(self._called) == 1:
            self._find_attention(self._called[0])
        else:
            calls = f"{len(self._called)} calls of attention in its blocks"
            what = calls if self._called else NO_ATTENTION
            self._lacks(what, "ln1_out", "q", "k", "v", *ATTENTION_SITES, "z")
        if len({called.path for called in self._called}) > 1:
            self._lacks(what, *(site for site in SITES if site not in ENDS))
            return
        self._find_residual()
        router = self._find_router()
        self._find_mlp(router)

    def enter(self, taps: Mapping[str, Tap]) -> None:
        """Enter taps that were written by hand, in the place of those found.

        Raises:
            MicrotomeError: one that leads nowhere, or where another width passes.
        """
        for site, tap in taps.items():
            width = prod(shape(site, self._sizes))
            calls = [call for call in self._passed if call.path == tap.path]
            passed = [call.given if tap.side == "input" else call.returned for call in calls]
            if not passed or passed[-1] is None or passed[-1].shape[1] < tap.start + width:
                here = "another width" if passed else "nothing"
                raise MicrotomeError(
                    f"site {site!r}: {here} passes {tap.path!r}; correct its entry in "
                    "microtome/models/architectures.py"
                )
            self.taps[site] = tap
            self.absent.pop(site, None)

    def _scale(self, factor: float) -> float:
        """What a config says a factor is, which is measured but for rounding."""
        given = [value for value in self._config.to_dict().values() if isinstance(value, float)]
        close = [value for value in given if abs(value - factor) < TOLERANCE * abs(factor)]
        return min(close, key=lambda value: abs(value - factor), default=float(f"{factor:.6g}"))

    def _lacks(self, reason: str, *sites: str) -> None:
        self.absent |= dict.fromkeys(sites, reason)

    def _linear(self, start: int, end: int | None = None) -> list[Projection]:
        """The projections that are called after one moment and have ended before another."""
        return [
            call
            for call in self._passed
            if isinstance(call, Projection)
            and call.start > start
            and (end is None or call.end < end)
        ]

    def _around(self, inner: Passed, start: int, end: int) -> Passed:
        """The outermost module that is given what another one is, within a time."""
        around = [
            call
            for call in self._passed
            if start < call.start <= inner.start
            and call.end >= max(inner.end, end)
            and same(call.given, inner.given)
        ]
        return min(around, key=lambda call: call.depth, default=inner)

    # Attention.

    def _find_attention(self, called: Called) -> None:
        wrong = check([called.attended], self._sizes)
        tap = Tap(called.path, "attention")
        self.taps |= {site: tap for site in ATTENTION_SITES if site not in wrong}
        self.absent |= wrong

        query, key, value = (
            # (batch, head, position, width) as (token, head, width)
            tensor.transpose(1, 2).flatten(0, 1).float()
            for tensor in (called.attended.query, called.attended.key, called.attended.value)
        )
        first = torch.arange(0, TEXTS * LENGTH, LENGTH)  # the tokens at position 0
        self._trace("q", query[first], first, called.time)
        self._trace("k", key[first], first, called.time)
        self._trace("v", value, torch.arange(TEXTS * LENGTH), called.time)

        width = prod(shape("z", self._sizes))
        reading = [c for c in self._linear(0, called.time) if c.given.shape == self._before.shape]
        if reading:
            self.taps["ln1_out"] = self._around(reading[0], 0, called.time).tap("input")
        else:
            self._lacks("no projection before attention", "ln1_out")
        after = [
            call
            for call in self._linear(called.time)
            # A gate may be projected there too, from what attention reads.
            if not (reading and same(call.given, reading[0].given))
        ]
        if not after:
            self._lacks("no projection after attention", "z")
        elif after[0].given.shape[1] != width:
            self._lacks(f"{after[0].path} reads {after[0].given.shape[1]} numbers", "z")
        else:
            self.taps["z"] = after[0].tap("input")

    def _trace(self, site: str, target: Tensor, rows: Tensor, end: int) -> None:
        """Find the projection whose columns attention is called with, through norms of heads.

        Args:
            site: q, k or v.
            target: what attention is called with, (row, head, d_head).
            rows: which tokens these are.
            end: when it is called.
        """
        before = [
            (call, call.returned[rows])
            for call in self._passed
            if call.end < end and call.returned is not None
        ]
        first = target.flatten(1)
        for call, returned in sorted(before, key=lambda pair: -pair[0].end):
            columns = columns_of(target.flatten(1), returned)
            if columns is None:
                continue
            if call.weight is not None:
                self._enter_heads(site, call, torch.tensor(columns).unflatten(0, target.shape[1:]))
                return
            if call.given is not None and call.given[rows].shape == returned.shape:
                target = call.given[rows][:, columns].unflatten(1, target.shape[1:])
        parts = [
            call.path
            for call, returned in before
            if call.weight is not None and has_column(first, returned)
        ]
        what = "no projection gives what attention is called with"
        if len(parts) > 1:
            what = f"put together of parts of {' and '.join(parts)}"
        self._lacks(what, site)

    def _enter_heads(self, site: str, call: Passed, columns: Tensor) -> None:
        """Enter a site whose heads lie in some columns, (head, d_head), if a tap can say so."""
        # Within a head they may be in another order; the heads of a group may be repeated.
        heads = list(dict.fromkeys(tuple(sorted(head)) for head in columns.tolist()))
        n_heads, width = shape(site, self._sizes)
        if (len(heads), len(heads[0])) != (n_heads, width):
            found = f"{len(heads)} heads of {len(heads[0])} numbers"
            self._lacks(f"{call.path} has {found}, config.json says {n_heads} of {width}", site)
            return
        first = [head[0] for head in heads]
        steps = [b - a for a, b in pairwise(first)]
        per = next((i + 1 for i, step in enumerate(steps) if step != width), n_heads)
        grouped = per < n_heads
        stride = first[per] - first[0] if grouped else 0
        if heads == [
            tuple(range(start, start + width))
            for head in range(n_heads)
            for start in [first[0] + head // per * stride + head % per * width]
        ]:
            self.taps[site] = call.tap(start=first[0], stride=stride, per=per if grouped else 0)
        else:
            self._lacks(f"its heads lie in no regular order in {call.path}", site)

    # The residual stream.

    def _find_residual(self) -> None:
        added = [
            call
            for call in self._passed
            if call.returned is not None and call.returned.shape == self._before.shape
        ]
        added.sort(key=lambda call: (call.depth, call.start))
        ways = (self._in_sequence, self._in_parallel, self._alone, self._after_all_else)
        if not any(way(added) for way in ways):
            what = "no outputs add up to its residual stream"
            self._lacks(what, "attn_out", "resid_mid", "mlp_out")

    def _in_sequence(self, added: list[Passed]) -> bool:
        """Find a module that reads resid_pre + attn_out, and what the MLP adds after it."""
        for middle in self._passed:
            if middle.given is None or middle.given.shape != self._before.shape:
                continue
            earlier = (c for c in added if c.end < middle.start and not self._has_mlp_before(c.end))
            attention = _summand(middle.given - self._before, earlier)
            if attention is None:
                continue
            self.taps["attn_out"] = attention[0].tap(scale=self._scale(attention[1]))
            self.taps["resid_mid"] = middle.tap("input")
            self._mlp_from = attention[0].end
            later = [call for call in added if call.start >= middle.start]
            self._find_mlp_out(middle, middle.given, later)
            return True
        return False

    def _find_mlp_out(self, middle: Passed, given: Tensor, later: list[Passed]) -> None:
        """Find what is added to what a module is given, or to what it returns if it is a norm."""
        reading = [
            (call.given, call.returned)
            for call in self._passed
            if call.start > middle.start
            and call.given is not None
            and call.given.shape == self._before.shape
        ]
        sums = [(self._after, given), *((total, given) for total, _ in reading)]
        # Post-norm: the last module is another norm.
        last = [total for total, returned in reading if same(returned, self._after)]
        sums += [(total, middle.returned) for total in last if middle.returned is not None]
        for total, stream in sums:
            mlp = _summand(total - stream, later)
            if mlp is not None:
                self._mlp = mlp[0]
                self.taps["mlp_out"] = mlp[0].tap(scale=self._scale(mlp[1]))
                return
        self._lacks("what is added after attention is no module's output", "mlp_out")

    def _in_parallel(self, added: list[Passed]) -> bool:
        """Find two outputs that together are what the block adds, one of them attention's."""
        total = self._after - self._before
        returned = [(call, call.returned) for call in added if call.returned is not None]
        for attention, one in returned:
            if not self._attends(attention):
                continue
            for mlp, other in returned:
                if mlp.start < attention.end and attention.start < mlp.end:
                    continue  # one is a part of the other
                factor = multiple(total, one + other)
                if factor is not None:
                    self._mlp = mlp
                    self.taps["attn_out"] = attention.tap(scale=self._scale(factor))
                    self.taps["mlp_out"] = mlp.tap(scale=self._scale(factor))
                    self._lacks("attention and MLP run in parallel", "resid_mid")
                    return True
        return False

    def _alone(self, added: list[Passed]) -> bool:
        """Find the one output that a block of attention or of an MLP alone adds."""
        found = _summand(self._after - self._before, added)
        if found is None:
            return False
        call, factor = found
        tap = call.tap(scale=self._scale(factor))
        if self._attends(call):
            self.taps["attn_out"] = tap
            self._lacks(ONE_PART, "resid_mid", "mlp_out")
            return True
        self._mlp_from = call.start - 1
        inside = self._linear(self._mlp_from, call.end + 1)
        if self._find_router() or (inside and self._find_pre(inside[:-1], inside[-1].given)):
            self._mlp = call
            self.taps["mlp_out"] = tap
            self._lacks(ONE_PART, "attn_out", "resid_mid")
        else:
            self._lacks(ONE_PART, "attn_out", "resid_mid", "mlp_out")
        return True

    def _after_all_else(self, added: list[Passed]) -> bool:
        """Find what the MLP adds where what is added before it is no module's output."""
        for middle in reversed(self._passed):
            is_norm = middle.weight is None and not list(middle.module.children())
            if middle.given is None or not is_norm:
                continue
            if _shape_of(middle) != 2 * self._before.shape[1:]:
                continue
            mlp = _summand(self._after - middle.given, (c for c in added if c.start > middle.end))
            if mlp is not None:
                self._mlp = mlp[0]
                self._mlp_from = middle.start - 1
                self.taps["resid_mid"] = middle.tap("input")
                self.taps["mlp_out"] = mlp[0].tap(scale=self._scale(mlp[1]))
                self._lacks("what is added before the MLP is no module's output", "attn_out")
                return True
        return False

    def _has_mlp_before(self, time: int) -> bool:
        """Whether something between attention and a moment is as wide as an MLP."""
        return bool(self._called) and any(
            call.given.shape == self._before.shape
            and call.returned is not None
            and call.returned.shape[1] % self._sizes["d_mlp"] == 0
            for call in self._linear(self._called[-1].time, time)
        )

    def _attends(self, call: Passed) -> bool:
        """Whether attention is called inside a module."""
        return any(call.start < called.time < call.end for called in self._called)

    # The MLP.

    def _find_mlp(self, router: Passed | None) -> None:
        mlp, width = self._mlp, self._sizes["d_mlp"]
        if mlp is None and self.absent.get("mlp_out") == ONE_PART:
            self._lacks(ONE_PART, "ln2_out", "pre", "pre_linear", "post")
            return
        if mlp is None:
            last = [c for c in self._linear(0) if _shape_of(c) == (width, self._before.shape[1])]
        else:
            last = [
                call
                for call in self._linear(self._mlp_from, mlp.end + 1)
                if same(call.returned, mlp.returned) or same(call.returned, mlp.given)
            ]
        reading = router or self._inner(mlp)
        if not last:
            what = (
                "its MLP ends in no projection, as that of experts"
                if reading
                else "no MLP is found"
            )
            self._lacks(what, "pre", "pre_linear", "post")
        elif last[-1].given.shape[1] != width:
            found = last[-1].given.shape[1]
            what = f"{last[-1].path} reads {found} numbers, config.json says {width}"
            self._lacks(what, "pre", "pre_linear", "post")
        else:
            first = self._find_pre(self._linear(self._mlp_from, last[-1].start), last[-1].given)
            reading = first or reading
            if reading:
                self.taps["post"] = last[-1].tap("input")
            else:
                self._lacks("no MLP is found", "post")
        self._find_ln2_out(reading)

    def _inner(self, mlp: Passed | None) -> Passed | None:
        """The MLP itself where what is added is what a norm makes of its output."""
        if mlp is None or mlp.weight is not None or list(mlp.module.children()):
            return mlp
        made = [c for c in self._passed if c.end < mlp.start and same(c.returned, mlp.given)]
        return min(made, key=lambda call: call.depth, default=mlp)

    def _find_ln2_out(self, reading: Passed | None) -> None:
        """Find what the MLP reads: its first projection, or the whole of it if it has none."""
        if reading is not None and (reading is not self._mlp or reading.weight is None):
            whole = self._around(reading, self._mlp_from, 0)
            if whole.given is not None and whole.given.shape == self._before.shape:
                self.taps["ln2_out"] = whole.tap("input")
                return
        self._lacks("no module reads what its MLP does", "ln2_out")

    def _find_pre(self, projections: Sequence[Passed], post: Tensor) -> Passed | None:
        """Find the projections of which an activation function makes `post`; return the first."""
        width = post.shape[1]
        parts = [
            (call, start, call.returned[:, start : start + width])
            for call in projections
            if call.returned is not None and call.returned.shape[1] % width == 0
            for start in range(0, call.returned.shape[1], width)
        ]
        # Some norm what the activation function has made.
        made = [post, *(c.given for c in self._passed if same(c.returned, post))]
        for call, start, values in parts:
            for active in self._activated(values):
                if any(same(active, result) for result in made):
                    self.taps["pre"] = call.tap(start=start)
                    self._lacks("its MLP is not gated", "pre_linear")
                    return call
                for other, other_start, factors in parts:
                    if any(same(active * factors, result) for result in made):
                        self.taps["pre"] = call.tap(start=start)
                        self.taps["pre_linear"] = other.tap(start=other_start)
                        return call
        what = "no projection makes `post` through an activation function"
        self._lacks(what, "pre", "pre_linear")
        return None

    def _activated(self, values: Tensor) -> Iterator[Tensor]:
        """What modules that are given some values make of them, and activation functions."""
        yield from (
            call.returned
            for call in self._passed
            if call.returned is not None
            and call.returned.shape == values.shape
            and same(call.given, values)
        )
        given = [value for key, value in self._config.to_dict().items() if "act" in key]
        named = {value for value in given if isinstance(value, str) and value in ACT2FN}
        for name in sorted(named | {"gelu", "relu", "silu"}):
            yield ACT2FN[name](values.clone())  # some work in place

    def _find_router(self) -> Passed | None:
        n_experts = self._sizes.get("n_experts")
        for call in reversed(self._linear(self._mlp_from)):
            if call.returned is None or call.weight.shape[0] != n_experts:
                continue
            if _shape_of(call) != (self._sizes["d_model"], n_experts):
                continue
            bias = call.returned - call.given @ call.weight.T  # the same for every token, or none
            if (bias - bias[0]).abs().max() <= TOLERANCE * call.returned.abs().max():
                self.taps["router"] = call.tap()
                return call
        what = f"no module returns logits over {n_experts} experts" if n_experts else "no experts"
        self._lacks(what, "router")
        return None
