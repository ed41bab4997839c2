"""The sweep of an intervention: the clean run, and all cases as branches that ride it.

The texts are run block by block as in `microtome.sweeps.sweep`, and each block's weights are read
once for all cases. In the block that a case changes first, it joins as a copy of the clean run's
row; the blocks before it are not run again for it. What a change cannot reach, all before the first
token that it changes, has the clean run's values, and the linear layers compute it once for all
(`microtome.sweeps.prefixes`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor
from tqdm import tqdm

from microtome.interventions.cases import Branch, Cases, Text, texts_of
from microtome.interventions.changes import Changes, CleanValues
from microtome.interventions.declaration import Intervention
from microtome.interventions.fit import fit_model, fit_targets, fit_texts
from microtome.interventions.outcome import Outcome
from microtome.models.calls import Call
from microtome.models.mapped import MappedModel
from microtome.models.memory import trim_heap
from microtome.models.taps import Tap
from microtome.sweeps.cost import INSIDE, PREDICTED, WITH_SHARED
from microtome.sweeps.cost import rows_at_once as affordable
from microtome.sweeps.prefixes import STEADY, Distinct, Sharing, prefix_classes
from microtome.sweeps.reading import part, visiting
from microtome.sweeps.sweep import found_device

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Sites whose layers treat each token on its own, after attention.
LATE = ("z", "pre", "pre_linear", "post")
#: Sites that attention reads.
BEFORE_ATTENTION = ("resid_pre", "q", "k", "v")
#: Batches of branches of which it is kept what blocks are called with; most batches recur.
CALLS = 8


@torch.no_grad()
def intervene(
    checkpoint: Path,
    columns: Mapping[str, ArrayLike],
    intervention: Intervention,
    *,
    taps: Mapping[str, Tap],
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    batch_size: int = 32,
    dtype: str = "float32",
    device: str = "cpu",
    log: TextIO | None = None,
    rows_at_once: int | None = None,
) -> xr.Dataset:
    """Run all cases of an intervention.

    Args:
        checkpoint: a checkpoint folder as `microtome.models.fetch.fetch` makes it.
        columns: the token table's columns by name, (token,) each.
        intervention: what is changed and read, with arrays in the place of references.
        taps: where the sites lie inside a block.
        tokenizer: the model's own; wanted where targets or the highest tokens are read.
        batch_size: texts of the clean run per batch, at most.
        dtype: what is computed in: float32, bfloat16 or float16.
        device: where: cpu, cuda, or auto for a GPU if there is one.
        log: where a progress bar goes, if anywhere.
        rows_at_once: changed texts that ride a sweep together, at most; by their cost if None.

    Returns:
        The outcome, as docs/interventions.md describes it.

    Raises:
        MicrotomeError: an intervention that does not fit the model or the texts.
    """
    model = MappedModel(checkpoint, dtype, found_device(device))
    fit_model(intervention, model.sizes, taps, model.config.model_type)
    fit_texts(intervention, columns)
    fit_targets(intervention, tokenizer)
    texts = texts_of(columns)
    cases = Cases(intervention, model.sizes, texts)
    outcome = Outcome(cases, model.sizes, columns, tokenizer)
    branches = cases.branches()
    longest = max(len(text.ids) for text in texts)
    size = rows_at_once or affordable(model.sizes, longest)
    groups = [branches[start : start + size] for start in range(0, len(branches), size)]
    ride = _Ride(model, cases, outcome, taps, batch_size)
    firsts = [group[0].layers[0] for group in groups]
    with tqdm(
        total=len(groups) * ride.stop - sum(firsts[1:]),
        unit="block",
        file=log,
        disable=log is None,
        delay=2,
    ) as bar:
        for number, group in enumerate(groups):
            for _ in ride.blocks(group, firsts[number + 1] if number + 1 < len(groups) else None):
                bar.update()
    return outcome.dataset()


@dataclass
class _Texts:
    """Texts of one length between two blocks of the clean run."""

    texts: list[Text]
    ids: Tensor  # (text, position)
    classes: np.ndarray  # numbers of tokens, equal where what precedes them is; (text, position)
    hidden: Tensor  # entering the next block, (text, position, d_model)
    calls: list[tuple[slice, list[Call], Distinct]] = field(default_factory=list)  # of each batch


@dataclass
class _Branches:
    """Branches of texts of one length between two blocks."""

    texts: _Texts
    branches: list[Branch]
    which: np.ndarray  # of each branch, the number of its text among `texts`
    firsts: np.ndarray  # of each branch, the first layer that is changed, ascending
    reach: np.ndarray  # of each branch, the first token that differs from the clean run's
    hidden: Tensor  # (branch, position, d_model)


class _Ride:
    """Sweeps of one model over the same texts, each with some of the branches."""

    def __init__(
        self,
        model: MappedModel,
        cases: Cases,
        outcome: Outcome,
        taps: Mapping[str, Tap],
        batch_size: int,
    ) -> None:
        self._model, self._cases, self._outcome, self._taps = model, cases, outcome, taps
        self._site, self._asked = cases.intervention.site, cases.intervention.read
        self._changes = Changes(cases)
        self._predicts = bool(self._asked.predictions or self._asked.loss)
        n_layers = model.sizes["n_layers"]
        self.stop = n_layers if self._predicts else max(outcome.read_layers) + 1
        # On a GPU the order of sums depends on how many rows there are.
        self._sharing = Sharing(model.blocks) if model.device.type == "cpu" else None
        self._calls: dict[tuple[int, ...], list[Call]] = {}
        self._texts = self._start(batch_size)
        self._next: tuple[int, list[Tensor]] = (0, [texts.hidden for texts in self._texts])
        self._finished = False

    def _start(self, batch_size: int) -> list[_Texts]:
        """The texts before the first block, by length."""
        lengths = sorted({len(text.ids) for text in self._cases.texts})
        found = []
        for length in lengths:
            members = [text for text in self._cases.texts if len(text.ids) == length]
            ids = np.stack([text.ids for text in members])
            texts = _Texts(members, torch.from_numpy(ids).long(), prefix_classes(ids), Tensor())
            hidden = []
            for start in range(0, len(members), batch_size):
                rows = slice(start, start + batch_size)
                entering, calls = self._model.record(texts.ids[rows], self.stop)
                hidden.append(entering)
                texts.calls.append((rows, calls, Distinct(texts.classes[rows])))
            texts.hidden = torch.cat(hidden)
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
        riding = self._riding(group)
        changed = {layer for branch in group for layer in branch.layers}
        for layer, weights in self._model.weights_of_blocks(range(start, self.stop)):
            entering = [texts.hidden for texts in self._texts]
            if layer == next_first:
                self._next = layer, entering
            clean = self._run_clean(layer, weights, wanted_by_changes=layer in changed)
            for branches, before in zip(riding, entering, strict=True):
                self._run_branches(layer, weights, branches, before, clean)
            trim_heap()
            yield layer
        if self._predicts:
            self._predict_all(riding)
        self._finished = True

    def _riding(self, group: Sequence[Branch]) -> list[_Branches]:
        """The branches of a group by the length of their texts, before the first block."""
        found = []
        for texts in self._texts:
            places = {text.number: row for row, text in enumerate(texts.texts)}
            members = [branch for branch in group if branch.text.number in places]
            n, length = len(members), texts.ids.shape[1]
            found.append(
                _Branches(
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
                    self._shared(distinct, steady=False),
                ):
                    left = self._model.run_block(layer, weights, entering, calls[layer])
                for site, hidden in (("resid_pre", entering), ("resid_post", left)):
                    if site in wanted:
                        note(site, hidden)
                leaving.append(left)
            texts.hidden = torch.cat(leaving)
        if not self._finished:
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
        riding: _Branches,
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
        riding: _Branches,
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

        def change(site: str, value: Tensor) -> Tensor | None:
            # The stream itself goes on from this tensor, beside what reads it here.
            is_stream = site == "resid_mid"
            changed = value if is_stream else value.clone()
            whole = part(site, changed, self._taps[site], self._model.sizes)
            self._change(layer, riding, rows, whole, clean)
            if self._sharing:
                self._sharing.switch(self._distinct(riding, rows))
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
            self._shared(
                self._distinct(riding, rows),
                steady=True,
                **self._late(layer, riding, rows, changes),
            ),
        ):
            call = self._calls_of(riding, rows)[layer]
            riding.hidden[rows] = self._model.run_block(layer, weights, hidden, call)

    def _change(
        self,
        layer: int,
        riding: _Branches,
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
        riding: _Branches,
        rows: slice,
        values: Tensor,
        clean: dict[str, dict[int, Tensor]],
    ) -> None:
        """Take what a site holds of some branches."""
        for branch, of_row in zip(riding.branches[rows], values, strict=True):
            positions = self._outcome.read.positions[branch.run]
            unchanged = clean[site][branch.text.number][positions]
            self._outcome.take_site(site, layer, branch, of_row[positions], unchanged)

    def _shared(self, distinct: Distinct, **how: Any) -> AbstractContextManager[None]:
        return self._sharing.of(distinct, **how) if self._sharing else nullcontext()

    def _late(self, layer: int, riding: _Branches, rows: slice, changes: bool) -> dict[str, Any]:
        """In the last block, the tokens that are needed after attention: those that are read."""
        if (
            layer < self.stop - 1
            or self._asked.loss
            or layer in self._outcome.read_layers
            or (changes and self._site not in BEFORE_ATTENTION)
        ):
            return {}
        needed = np.zeros((rows.stop - rows.start, riding.hidden.shape[1]), bool)
        for row, branch in zip(needed, riding.branches[rows], strict=True):
            row[self._outcome.predicted.positions[branch.run]] = True
        layers = frozenset(self._taps[site].path for site in LATE if site in self._taps)
        return {"late": self._distinct(riding, rows).only(needed), "late_layers": layers}

    def _distinct(self, riding: _Branches, rows: slice) -> Distinct:
        """The tokens of some branches that have values of their own."""
        classes = riding.texts.classes[riding.which[rows]]
        own = classes.max() + 1 + np.arange(classes.size).reshape(classes.shape)
        reached = np.arange(classes.shape[1]) >= riding.reach[rows, None]
        return Distinct(np.where(reached, own, classes))

    def _calls_of(self, riding: _Branches, rows: slice) -> list[Call]:
        """What the blocks are called with for some branches; some models look at the tokens."""
        key = (riding.hidden.shape[1], *riding.which[rows])
        if key not in self._calls:
            if len(self._calls) >= CALLS:
                self._calls.clear()
            ids = riding.texts.ids[riding.which[rows]]
            self._calls[key] = self._model.record(ids, self.stop)[1]
        return self._calls[key]

    def _predict_all(self, riding: Sequence[_Branches]) -> None:
        """Take the predictions: of the clean run first, which the others are held beside."""
        outcome = self._outcome
        clean = [
            (run, run, texts.ids[row], texts.hidden[row])
            for texts in self._texts
            for row, text in enumerate(texts.texts)
            for run, (changed, _) in enumerate(self._cases.runs)
            if changed is text
        ]
        branches = [
            (branch, branch.run, of_them.texts.ids[which], hidden)
            for of_them in riding
            for branch, which, hidden in zip(
                of_them.branches, of_them.which, of_them.hidden, strict=True
            )
        ]
        if not self._finished:
            self._predict(clean, outcome.take_clean_prediction, outcome.take_clean_loss)
        self._predict(branches, outcome.take_prediction, outcome.take_loss)

    def _predict(
        self,
        rows: Sequence[tuple[Any, int, Tensor, Tensor]],
        take_prediction: Callable[[Any, Tensor], None],
        take_loss: Callable[[Any, float], None],
    ) -> None:
        """Hand on what is predicted after some rows.

        Args:
            rows: for each, what it is called, its text among those that are changed, its token ids
                (position,) and its hidden state after the last block (position, d_model).
            take_prediction: receives a row's name and its logits, (token, d_vocab).
            take_loss: receives a row's name and its loss.
        """
        if self._asked.predictions:
            at = self._outcome.predicted.positions
            read = ((key, ids[at[run]], hidden[at[run]]) for key, run, ids, hidden in rows)
            for key, logits in self._logits(read):
                take_prediction(key, logits)
        if self._asked.loss:
            read = (((key, ids[1:]), ids[:-1], hidden[:-1]) for key, _, ids, hidden in rows)
            for (key, next_ids), logits in self._logits(read):
                loss = torch.nn.functional.cross_entropy(logits, next_ids.to(logits.device))
                take_loss(key, loss.item())

    def _logits(self, wanted: Iterable[tuple[Any, Tensor, Tensor]]) -> Iterator[tuple[Any, Tensor]]:
        """The logits after some tokens, (n, d_vocab), float32.

        Args:
            wanted: what each is called, its token ids (n,) and its hidden states (n, d_model).
        """
        waiting: list[tuple[Any, Tensor, Tensor]] = []
        for item in wanted:
            waiting.append(item)
            if sum(len(ids) for _, ids, _ in waiting) >= PREDICTED:
                yield from self._run_head(waiting)
                waiting = []
        if waiting:
            yield from self._run_head(waiting)

    def _run_head(
        self, items: Sequence[tuple[Any, Tensor, Tensor]]
    ) -> Iterator[tuple[Any, Tensor]]:
        names, ids, hidden = zip(*items, strict=True)
        sizes = [len(each) for each in ids]
        # So many that their bits do not depend on how many there are.
        filling = max(0, STEADY * torch.get_num_threads() - sum(sizes))
        rows = torch.cat([*hidden, hidden[0][:1].expand(filling, -1)])
        tokens = torch.cat([*ids, ids[0][:1].expand(filling)])
        # What follows the blocks treats each token on its own.
        _, logits = self._model.finish(tokens[:, None], rows[:, None])
        yield from zip(names, logits[: sum(sizes), 0].float().split(sizes), strict=True)


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
