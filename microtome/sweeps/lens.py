"""The lens: what final norm and head predict from the hidden states of any layer."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from microtome.errors import MicrotomeError
from microtome.models.mapped import MappedModel
from microtome.models.skeleton import require_head
from microtome.sites import RESIDUAL
from microtome.store.layers import Section
from microtome.sweeps.batches import batched
from microtome.sweeps.cost import PREDICTED
from microtome.sweeps.prefixes import STEADY
from microtome.sweeps.sweep import found_device


class Lens:
    """Predicts from the sections of a sweep, with what the model runs after its last block.

    Of the last block's `resid_post`, the predictions are those of a full forward of the same batch,
    bit for bit on a CPU. The weights of norm and head are read once, and kept as long as the lens.

    Attributes:
        d_vocab: how many tokens there are to predict.
    """

    def __init__(
        self,
        checkpoint: Path,
        columns: Mapping[str, np.ndarray],
        *,
        batch_tokens: int,
        dtype: str,
        device: str,
        steady: bool = False,
    ) -> None:
        """Read what comes after the blocks.

        Args:
            checkpoint: a checkpoint folder as `microtome.models.fetch.fetch` makes it.
            columns: the columns of the token table that is swept, by name, (token,) each.
            batch_tokens: as in the sweep, and so the others.
            dtype: what is computed in: float32, bfloat16 or float16.
            device: where: cpu, cuda, or auto for a GPU if there is one.
            steady: as in `sweep_table`: there are no small batches.

        Raises:
            MicrotomeError: a model without head, or one whose head reads more than the residual
                stream; weights that do not fit the config; no GPU.
        """
        self._model = model = MappedModel(checkpoint, dtype, found_device(device))
        require_head(f"the {model.config.model_type!r} model", model.head)
        model.require_one_stream("a lens")
        model.hold_head()
        self.d_vocab = self._model.sizes["d_vocab"]
        ids = np.asarray(columns["token_id"])
        rows = np.asarray(columns["row"]) if "row" in columns else np.arange(len(ids))
        self._ids = torch.zeros(rows.max() + 1, dtype=torch.long)
        self._ids[rows[rows >= 0]] = torch.from_numpy(ids[rows >= 0]).long()
        # On a GPU, the order of sums depends on how many rows there are in any case.
        on_cpu = self._model.device.type == "cpu"
        self._steady = STEADY * torch.get_num_threads() if on_cpu else 0
        self._small: dict[int, np.ndarray] = {}  # by row, the rows of its batch
        for batch in [] if steady else batched(columns, batch_tokens):
            if batch.rows.size < self._steady:
                self._small |= dict.fromkeys(batch.rows.ravel().tolist(), batch.rows.ravel())

    @torch.no_grad()
    def __call__(self, section: Section, site: str) -> Iterator[tuple[int, np.ndarray]]:
        """Predict from the hidden states at a site.

        Args:
            section: from the sweep of the same token table.
            site: one of `microtome.sites.RESIDUAL`.

        Yields:
            Each row of the section, and the log-probabilities of all tokens there, (d_vocab,),
            float32, in nats.

        Raises:
            MicrotomeError: a site that is not the residual stream, predictions that are NaN.
        """
        if site not in RESIDUAL:
            raise MicrotomeError(
                f"site {site!r}: final norm and head read the residual stream; name one of "
                f"{', '.join(RESIDUAL)}"
            )
        rows, hidden = section.rows, torch.from_numpy(section.values[site])
        size = max(PREDICTED, self._steady)
        for some, states in zip(
            np.split(rows, range(size, len(rows), size)), hidden.split(size), strict=True
        ):
            logits = self._logits(some, states.to(self._model.device, self._model.hidden_dtype))
            predicted = logits.float().log_softmax(dim=-1).cpu().numpy()
            if np.isnan(predicted).any():
                raise MicrotomeError(
                    f"layer {section.layer}, site {site}: NaN predictions; check the checkpoint's "
                    "weights and the `dtype` of computation"
                )
            del logits
            for row, own in zip(some.tolist(), predicted, strict=True):
                yield row, own.copy()  # a view would hold all of them while the next are computed
            del predicted, own

    def _logits(self, rows: np.ndarray, hidden: Tensor) -> Tensor:
        """Run final norm and head.

        Args:
            rows: the rows, (n,).
            hidden: their hidden states, (n, d_model).
        """
        # The bits of a prediction depend on how many tokens are predicted from, where they are
        # few, and on its place among them.
        batch = self._small.get(int(rows[0]))
        places: slice | list[int]
        if batch is None:
            n, places = max(len(rows), self._steady), slice(len(rows))
        else:
            n, places = len(batch), [int(np.flatnonzero(batch == row)[0]) for row in rows]
        chosen = self._ids[rows]
        ids, filled = chosen[:1].repeat(n), hidden[:1].repeat(n, 1)
        ids[places], filled[places] = chosen, hidden
        # What follows the blocks treats each token on its own.
        _, logits = self._model.finish(ids[:, None], filled[:, None])
        assert logits is not None  # the model has a head
        return logits[places, 0]
