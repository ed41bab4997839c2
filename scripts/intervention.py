"""Run an intervention: all its cases in one sweep."""

from dataclasses import replace
from pathlib import Path

import torch
import xarray as xr

from microtome.errors import MicrotomeError, nearest
from microtome.interventions.declaration import DeclarationError, Intervention, Reference
from microtome.interventions.run import intervene
from microtome.models.taps import from_plain
from microtome.store.datasets import read_dataset, write_dataset
from microtome.texts.rows import token_columns
from microtome.texts.tokens import load_tokenizer
from microtome.workflow.jobs import job
from microtome.workflow.load import load

if __name__ == "__main__":
    with job(snakemake) as log:
        params, inputs = snakemake.params, snakemake.input
        # The config's number, not that of the cores granted: last digits depend on it.
        torch.set_num_threads(params.threads)
        read = dict(zip(params.reads, map(read_dataset, inputs.datasets), strict=True))

        def variable(reference: Reference) -> xr.DataArray:
            """A statistic's variable."""
            known = read[reference.statistic]
            if reference.variable not in known:
                remedy = nearest(reference.variable, list(known))
                raise MicrotomeError(
                    f"{reference.statistic} has no variable {reference.variable!r}; {remedy}"
                )
            return known[reference.variable]

        try:
            intervention = Intervention(**params.declared).resolved(variable)
            if params.function:
                change = replace(intervention.change, function=load(params.function))
                intervention = replace(intervention, change=change)
            asked = intervention.read
            found = intervene(
                Path(inputs.checkpoint),
                token_columns(read_dataset(inputs.tokens)),
                intervention,
                taps=from_plain(params.taps),
                tokenizer=load_tokenizer(Path(inputs.checkpoint))
                if asked.targets or asked.top
                else None,
                batch_tokens=params.batch_tokens,
                dtype=params.dtype,
                device=params.device,
                log=log,
            )
        except DeclarationError as error:
            raise DeclarationError((params.key, *error.keys), error.fault) from None
        write_dataset(found, snakemake.output[0])
