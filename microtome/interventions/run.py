"""The run of an intervention: all its cases in one sweep, or several where memory is short.

The texts are run block by block as in `microtome.sweeps.sweep`, and each block's weights are read
once for all cases (`microtome.interventions.ride`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from microtome.interventions.cases import Cases, texts_of
from microtome.interventions.declaration import Intervention
from microtome.interventions.fit import fit_model, fit_targets, fit_texts
from microtome.interventions.outcome import Outcome
from microtome.interventions.predictions import Predictions
from microtome.interventions.ride import Ride
from microtome.models.mapped import MappedModel
from microtome.models.taps import Tap
from microtome.sweeps.cost import rows_at_once as affordable
from microtome.sweeps.sweep import found_device

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@torch.no_grad()
def intervene(
    checkpoint: Path,
    columns: Mapping[str, np.ndarray],
    intervention: Intervention,
    *,
    taps: Mapping[str, Tap],
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    batch_tokens: int = 1024,
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
        batch_tokens: tokens of the clean run per batch, at most, as in a sweep.
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
    fit_model(intervention, model.sizes, taps, model.config.model_type, model.head)
    model.require_one_stream("an intervention")
    fit_texts(intervention, columns)
    target_ids = fit_targets(intervention, tokenizer)
    texts = texts_of(columns)
    cases = Cases(intervention, model.sizes, texts)
    outcome = Outcome(cases, model.sizes, columns, tokenizer, target_ids)
    ride = Ride(model, cases, outcome, taps, batch_tokens)
    predictions = Predictions(model, outcome, intervention.read)
    # Nothing is read of those that join later.
    branches = [branch for branch in cases.branches() if branch.layers[0] < ride.stop]
    size = rows_at_once or affordable(model.sizes, max(len(text.ids) for text in texts))
    groups = [branches[start : start + size] for start in range(0, len(branches), size)] or [[]]
    # A group's sweep begins at the first block that one of its branches changes.
    firsts = [0, *(group[0].layers[0] for group in groups[1:])]
    n_blocks = len(groups) * ride.stop - sum(firsts)
    with tqdm(total=n_blocks, unit="block", file=log, disable=log is None, delay=2) as bar:
        for number, (group, following) in enumerate(zip(groups, [*firsts[1:], None], strict=True)):
            for _ in ride.blocks(group, following):
                bar.update()
            predictions.take([*([] if number else ride.clean_rows()), *ride.branch_rows()])
    return outcome.dataset()
