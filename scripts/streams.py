"""Sweep a model over a token table, or a shard of it, and make streamed statistics on the way."""

from pathlib import Path

import torch

from microtome.models.taps import from_plain
from microtome.store.datasets import write_dataset
from microtome.store.layers import read_columns
from microtome.sweeps.lens import Lens
from microtome.sweeps.sweep import sweep_table
from microtome.workflow.inputs import empty
from microtome.workflow.jobs import job
from microtome.workflow.load import load

if __name__ == "__main__":
    with job(snakemake) as log:
        params, products = snakemake.params, snakemake.params.products
        # The config's number, not that of the cores granted: last digits depend on it.
        torch.set_num_threads(params.threads)
        checkpoint, columns = Path(snakemake.input.checkpoint), read_columns(snakemake.input.tokens)
        how = {key: getattr(params, key) for key in ("batch_tokens", "dtype", "device")}
        how["steady"] = params.states  # a shard's rows are those of any other
        lens = Lens(checkpoint, columns, **how) if params.lens else None
        statistics = [
            empty(load(product["function"]), product["reads"], product["options"], snakemake, lens)
            for product in products
        ]
        sections = sweep_table(
            *(checkpoint, columns, params.sites, params.layers),
            taps=from_plain(params.taps),
            log=log,
            **how,
        )
        for section in sections:
            for statistic, product in zip(statistics, products, strict=True):
                if section.layer in product["layers"]:
                    statistic.add(section)
            del section  # before the next one is computed
        for statistic, path in zip(statistics, snakemake.output, strict=True):
            write_dataset(statistic.state() if params.states else statistic.finish(), path)
