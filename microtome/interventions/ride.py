"""The blocks of an intervention's sweep, run on the texts as they are and on the branches.

In the block that a case changes first, it joins as a copy of the clean run's row; the blocks before
it are not run again for it. What a change cannot reach, all before the first token that it changes,
has the clean run's values, and is computed once for all (`microtome.sweeps.prefixes`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from microtome.interventions.cases import Branch, Cases, Text
from microtome.interventions.changes import Changes, CleanValues
from microtome.interventions.outcome import Outcome
from microtome.models.calls import Call, SharedTensors
from microtome.models.mapped import MappedModel
from microtome.models.memory import trim_heap
from microtome.models.taps import Tap
from microtome.sweeps.cost import INSIDE, WITH_SHARED
from microtome.sweeps.prefixes import Distinct, Sharing, prefix_classes
from microtome.sweeps.reading import part, put, visiting
from microtome.sweeps.sweep import TRIM_AFTER
from microtome.texts.lengths import batch_texts

#: Sites whose layers treat each token on its own, after attention.
LATE = ("z", "pre", "pre_linear", "post")
#: Sites that attention reads.
BEFORE_ATTENTION = ("resid_pre", "q", "k", "v")
#: Batches of branches of which it is kept what blocks are called with; most batches recur.
CALLS = 8


@dataclass
class TextsOfLength:
    """Texts of one length between two blocks of the clean run."""

    texts: list[Text]
    ids: Tensor  # (text, position)
    classes: np.ndarray  # numbers of tokens, equal where what precedes them is; (text, position)
    hidden: Tensor  # entering the next block, (text, position, d_model)
    calls: list[tuple[slice, list[Call], Distinct]] = field(default_factory=list)  # of each batch
    any_calls: list[Call] | None = None  # of any number of texts, where all have the same


@dataclass
class BranchesOfLength:
    """Branches of texts of one length between two blocks."""

    texts: TextsOfLength
    branches: list[Branch]
    which: np.ndarray  # of each branch, the number of its text among `texts`
    firsts: np.ndarray  # of each branch, the first layer that is changed, ascending
    reach: np.ndarray  # of each branch, the first token that differs from the clean run's
    hidden: Tensor  # (branch, position, d_model)


class Ride:
    """Sweeps of one model over the same texts, each with some of the branches.

    Attributes:
        stop: the block before which a sweep ends.
    """

    def __init__(
        self,
        model: MappedModel,
        cases: Cases,
        outcome: Outcome,
        taps: Mapping[str, Tap],
        batch_tokens: int,
    ) -> None:
        """Run what comes before the blocks.

        Args:
            model: the model.
            cases: the cases.
            outcome: takes what is read.
            taps: where the sites lie inside a block.
            batch_tokens: tokens of the clean run per batch, at most, as in a sweep.
        """
        self._model, self._cases, self._outcome, self._taps = model, cases, outcome, taps
        self._site, self._asked = cases.intervention.site, cases.intervention.read
        self._changes = Changes(cases)
        predicts = self._asked.predictions or self._asked.loss
        self.stop = model.sizes["n_layers"] if predicts else max(outcome.read_layers) + 1
        # On a GPU the order of sums depends on how many rows there are.
        shares = model.device.type == "cpu" and model.is_causal
        self._sharing = Sharing(model.blocks) if shares else None
        self._late_layers = frozenset(taps[site].path for site in LATE if site in taps)
        self._calls: dict[tuple[int, ...], list[Call]] = {}
        self._shared_tensors = SharedTensors()
        self._texts = self._start(batch_tokens)
        self._next: tuple[int, list[Tensor]] = (0, [texts.hidden for texts in self._texts])
        self._riding: list[BranchesOfLength] = []
        self._clean_taken = False
        self._left = 0  # bytes of hidden states since free memory went back to the system

    def _start(self, batch_tokens: int) -> list[TextsOfLength]:
        """The texts before the first block, by length."""
        # The longest first: what others are called with is often a part of what these are.
        lengths = sorted({len(text.ids) for text in self._cases.texts}, reverse=True)
        found = []
        for length in lengths:
            members = [text for text in self._cases.texts if len(text.ids) == length]
            ids = np.stack([text.ids for text in members])
            texts = TextsOfLength(
                members, torch.from_numpy(ids).long(), prefix_classes(ids), Tensor()
            )
            hidden = []
            size = batch_texts(length, batch_tokens)
            for start in range(0, len(members), size):
                rows = slice(start, start + size)
                entering, calls = self._model.record(texts.ids[rows], self.stop)
                hidden.append(entering)
                distinct = Distinct(texts.classes[rows])
                texts.calls.append((rows, self._shared_tensors.of(calls), distinct))
            texts.hidden = torch.cat(hidden)
            other = 1 if len(texts.ids[rows]) > 1 else 2
            of_others = self._model.record(texts.ids[:1].expand(other, -1), self.stop)[1]
            if [call.shapes() for call in calls] == [call.shapes() for call in of_others]:
                texts.any_calls = of_others
            found.append(texts)
        return found

    def blocks(self, group: Sequence[Branch], next_first: int | None) -> Iterator[int]:
        """Run the blocks once for some branches, and take what is read.

        Args:
            group: the branches, by the first layer that they change.
            next_first: the first layer that a branch of the next group changes.

        Yields:
            The index of each block when it has run.
        """
        start, entering = self._next
        for texts, hidden in zip(self._texts, entering, strict=True):
            texts.hidden = hidden
        self._riding = self._joining(group)
        changed = {layer for branch in group for layer in branch.layers}
        for layer, weights in self._model.weights_of_blocks(range(start, self.stop)):
            entering = [texts.hidden for texts in self._texts]
            if layer == next_first:
                self._next = layer, entering
            clean = self._run_clean(layer, weights, wanted_by_changes=layer in changed)
            for branches, before in zip(self._riding, entering, strict=True):
                self._run_branches(layer, weights, branches, before, clean)
            self._shared_tensors.refuse_changed(self._model.config.model_type)
            self._left += sum(of_them.hidden.nbytes for of_them in self._riding)
            if self._left > TRIM_AFTER:
                trim_heap()
                self._left = 0
            yield layer
        self._clean_taken = True

    def _joining(self, group: Sequence[Branch]) -> list[BranchesOfLength]:
        """The branches of a group by the length of their texts, before the first block."""
        found = []
        for texts in self._texts:
            places = {text.number: row for row, text in enumerate(texts.texts)}
            members = [branch for branch in group if branch.text.number in places]
            n, length = len(members), texts.ids.shape[1]
            found.append(
                BranchesOfLength(
                    texts,
                    members,
                    np.array([places[branch.text.number] for branch in members], int),
                    np.array([branch.layers[0] for branch in members], int),
                    np.full(n, length),
                    texts.hidden.new_empty(n, length, texts.hidden.shape[2]),
                )
            )
        return found

    def _read_at(self, layer: int) -> list[str]:
        """The sites that are read of a layer."""
        return list(self._asked.sites) if layer in self._outcome.read_layers else []

    def _run_clean(
        self, layer: int, weights: dict[str, Tensor], *, wanted_by_changes: bool
    ) -> dict[str, dict[int, Tensor]]:
        """Run a block on all texts as they are.

        Returns:
            For each site that is read or that changes take values from, the values of each text,
            (token, …), by its number.
        """
        read = self._read_at(layer)
        wanted = set(read)
        if wanted_by_changes and self._changes.clean_texts:
            wanted.add(self._site)
        values: dict[str, dict[int, Tensor]] = {site: {} for site in wanted}
        for texts in self._texts:
            leaving = []
            for rows, calls, distinct in texts.calls:
                members = texts.texts[rows]

                def note(site: str, value: Tensor, members: list[Text] = members) -> None:
                    whole = part(site, value, self._taps.get(site), self._model.sizes)
                    values[site] |= {t.number: v for t, v in zip(members, whole, strict=True)}

                entering = texts.hidden[rows]
                inside = {site: self._taps[site] for site in wanted if site in self._taps}
                with (
                    visiting(self._model.blocks[layer], inside, note),
                    self._shared(distinct=distinct),
                ):
                    left = self._model.run_block(layer, weights, entering, calls[layer])
                for site, hidden in (("resid_pre", entering), ("resid_post", left)):
                    if site in wanted:
                        note(site, hidden)
                leaving.append(left)
            texts.hidden = torch.cat(leaving)
        if not self._clean_taken:
            for site in read:
                for run, (text, _) in enumerate(self._cases.runs):
                    positions = self._outcome.read.positions[run]
                    self._outcome.take_clean_site(
                        site, layer, run, values[site][text.number][positions]
                    )
        return values

    def _run_branches(
        self,
        layer: int,
        weights: dict[str, Tensor],
        riding: BranchesOfLength,
        before: Tensor,
        clean: dict[str, dict[int, Tensor]],
    ) -> None:
        """Run a block on the branches that have joined, and let those join that it changes first.

        Args:
            layer: the block's index.
            weights: its weights.
            riding: the branches of texts of one length.
            before: what entered the block in the clean run, (text, position, d_model).
            clean: as `_run_clean` returned it.
        """
        old, joined = np.searchsorted(riding.firsts, [layer, layer + 1])
        new = slice(old, joined)
        at_end = self._site == "resid_post"
        if not at_end:
            riding.hidden[new] = before[riding.which[new]]
        length = riding.hidden.shape[1]
        # Of a branch that is changed in this block, perhaps all.
        own = np.where(riding.firsts < layer, length - riding.reach, length)
        own = np.maximum(own, length * INSIDE / WITH_SHARED)
        for rows in _slices(own[: old if at_end else joined], INSIDE):
            self._run_rows(layer, weights, riding, rows, clean)
        if at_end:
            riding.hidden[new] = riding.texts.hidden[riding.which[new]]
            self._change(layer, riding, slice(0, joined), riding.hidden[:joined], clean)
        if "resid_post" in self._read_at(layer):
            self._take("resid_post", layer, riding, slice(0, joined), riding.hidden[:joined], clean)

    def _run_rows(
        self,
        layer: int,
        weights: dict[str, Tensor],
        riding: BranchesOfLength,
        rows: slice,
        clean: dict[str, dict[int, Tensor]],
    ) -> None:
        """Run a block on some branches."""
        hidden = riding.hidden[rows]
        if self._site == "resid_pre":
            self._change(layer, riding, rows, hidden, clean)
        read = self._read_at(layer)
        if "resid_pre" in read:
            self._take("resid_pre", layer, riding, rows, hidden, clean)

        needed = self._needed(layer, riding, rows) if self._sharing else None

        def shared() -> dict[str, Distinct | None]:
            """What the rows share; a change in the block leaves them less."""
            distinct = self._distinct(riding, rows)
            return {"distinct": distinct, "late": None if needed is None else distinct.only(needed)}

        def change(site: str, value: Tensor) -> Tensor | None:
            # The stream itself goes on from this tensor, beside what reads it here.
            is_stream = site == "resid_mid"
            changed = value if is_stream else value.clone()
            whole = part(site, changed, self._taps[site], self._model.sizes)
            self._change(layer, riding, rows, whole, clean)
            put(changed, whole, self._taps[site])
            if self._sharing:
                self._sharing.switch(**shared())
            return None if is_stream else changed

        def take(site: str, value: Tensor) -> None:
            whole = part(site, value, self._taps[site], self._model.sizes)
            self._take(site, layer, riding, rows, whole, clean)

        changes = any(layer in branch.layers for branch in riding.branches[rows])
        to_change = {self._site: self._taps[self._site]} if self._site in self._taps else {}
        to_read = {site: self._taps[site] for site in read if site in self._taps}
        block = self._model.blocks[layer]
        with (
            visiting(block, to_change if changes else {}, change),
            visiting(block, to_read, take),
            self._shared(**shared(), steady=True, late_layers=self._late_layers),
        ):
            call = self._calls_of(riding, rows)[layer]
            left = self._model.run_block(layer, weights, hidden, call)
        if needed is not None:
            unreached = np.arange(left.shape[1]) < riding.reach[rows, None]
            clean_left = riding.texts.hidden[riding.which[rows]]
            left = torch.where(torch.from_numpy(unreached)[..., None], clean_left, left)
        riding.hidden[rows] = left

    def _change(
        self,
        layer: int,
        riding: BranchesOfLength,
        rows: slice,
        values: Tensor,
        clean: dict[str, dict[int, Tensor]],
    ) -> None:
        """Change the values of those branches that a layer changes, in place."""
        for row, of_row in zip(range(rows.start, rows.stop), values, strict=True):
            branch = riding.branches[row]
            if layer in branch.layers:
                taken: CleanValues = clean.get(self._site, {})
                first = self._changes.apply(of_row, branch, layer, taken)
                riding.reach[row] = min(riding.reach[row], first)

    def _take(
        self,
        site: str,
        layer: int,
        riding: BranchesOfLength,
        rows: slice,
        values: Tensor,
        clean: dict[str, dict[int, Tensor]],
    ) -> None:
        """Take what a site holds of some branches."""
        for branch, of_row in zip(riding.branches[rows], values, strict=True):
            positions = self._outcome.read.positions[branch.run]
            unchanged = clean[site][branch.text.number][positions]
            self._outcome.take_site(site, layer, branch, of_row[positions], unchanged)

    def _shared(self, **how: Any) -> AbstractContextManager[None]:
        return self._sharing.of(**how) if self._sharing else nullcontext()

    def _needed(self, layer: int, riding: BranchesOfLength, rows: slice) -> np.ndarray | None:
        """The tokens that a block has to compute after attention, (branch, position).

        Those before a change have the clean run's values, which are known when the block has run.
        In the last block, only those that are read are needed.

        Returns:
            Which they are; None where all are.
        """
        if layer in self._outcome.read_layers:
            return None
        branches = riding.branches[rows]
        changed = np.array([layer in branch.layers for branch in branches])
        needed = np.arange(riding.hidden.shape[1]) >= riding.reach[rows, None]
        needed[changed] = True
        if layer == self._model.sizes["n_layers"] - 1 and not self._asked.loss:
            positions = self._outcome.predicted.positions
            for row, branch in enumerate(branches):
                if not changed[row] or self._site in BEFORE_ATTENTION:
                    read = np.isin(np.arange(needed.shape[1]), positions[branch.run])
                    needed[row] &= read
        return needed if needed.any() else None

    def _distinct(self, riding: BranchesOfLength, rows: slice) -> Distinct:
        """The tokens of some branches that have values of their own."""
        classes = riding.texts.classes[riding.which[rows]]
        own = classes.max() + 1 + np.arange(classes.size).reshape(classes.shape)
        reached = np.arange(classes.shape[1]) >= riding.reach[rows, None]
        return Distinct(np.where(reached, own, classes))

    def _calls_of(self, riding: BranchesOfLength, rows: slice) -> list[Call]:
        """What the blocks are called with for some branches; some models look at the tokens."""
        if riding.texts.any_calls:
            return riding.texts.any_calls
        key = (riding.hidden.shape[1], *riding.which[rows])
        if key not in self._calls:
            if len(self._calls) >= CALLS:
                self._calls.clear()
            ids = riding.texts.ids[riding.which[rows]]
            self._calls[key] = self._model.record(ids, self.stop)[1]
        return self._calls[key]

    def clean_rows(self) -> Iterator[tuple[int, int, Tensor, Tensor]]:
        """The texts that are changed, after the last block that ran: see `predictions.Row`."""
        for texts in self._texts:
            for row, text in enumerate(texts.texts):
                for run, (changed, _) in enumerate(self._cases.runs):
                    if changed is text:
                        yield run, run, texts.ids[row], texts.hidden[row]

    def branch_rows(self) -> Iterator[tuple[Branch, int, Tensor, Tensor]]:
        """The branches, after the last block that ran: see `predictions.Row`."""
        for riding in self._riding:
            for branch, which, hidden in zip(
                riding.branches, riding.which, riding.hidden, strict=True
            ):
                yield branch, branch.run, riding.texts.ids[which], hidden


def _slices(sizes: np.ndarray, at_most: int) -> Iterator[slice]:
    """Slices of things with sizes, in order: as many as fit together, but at least one."""
    start, total = 0, 0.0
    for stop, size in enumerate(sizes):
        if stop > start and total + size > at_most:
            yield slice(start, stop)
            start, total = stop, 0.0
        total += size
    if len(sizes):
        yield slice(start, len(sizes))
