"""The predictions after some rows: final norm and head, on the tokens that are read alone."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from microtome.interventions.cases import Branch
from microtome.interventions.declaration import Read
from microtome.interventions.outcome import Outcome
from microtome.models.mapped import MappedModel
from microtome.sweeps.cost import PREDICTED
from microtome.sweeps.prefixes import STEADY

#: A row after the last block: what it is called, the number of its text among those that are
#: changed, its token ids (position,) and its hidden state (position, d_model).
Row = tuple[int | Branch, int, Tensor, Tensor]


class Predictions:
    """Computes what is predicted after some rows, and hands it on."""

    def __init__(self, model: MappedModel, outcome: Outcome, asked: Read) -> None:
        """Take the model, what receives the predictions, and what is read of them."""
        self._model, self._outcome, self._asked = model, outcome, asked

    def take(self, rows: Iterable[Row]) -> None:
        """Hand on what is predicted after rows.

        Args:
            rows: those of the clean run, called by the numbers of their texts, before the branches,
                called by themselves.
        """
        rows, outcome = list(rows), self._outcome
        if self._asked.predictions:
            at = outcome.predicted.positions
            read = ((key, ids[at[run]], hidden[at[run]]) for key, run, ids, hidden in rows)
            for key, logits in self._logits(read):
                if isinstance(key, Branch):
                    outcome.take_prediction(key, logits)
                else:
                    outcome.take_clean_prediction(key, logits)
        if self._asked.loss:
            followed = (((key, ids[1:]), ids[:-1], hidden[:-1]) for key, _, ids, hidden in rows)
            for (key, next_ids), logits in self._logits(followed):
                loss = torch.nn.functional.cross_entropy(logits, next_ids.to(logits.device)).item()
                if isinstance(key, Branch):
                    outcome.take_loss(key, loss)
                else:
                    outcome.take_clean_loss(key, loss)

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
        assert logits is not None  # the model has a head
        yield from zip(names, logits[: sum(sizes), 0].float().split(sizes), strict=True)
