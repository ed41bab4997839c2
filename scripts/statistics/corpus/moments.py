"""Moments of activations over a corpus, made in the sweep: none is stored."""

from pathlib import Path

import torch

from microtome.model.taps import from_plain
from microtome.statistics.running import moments
from microtome.store.datasets import write_dataset
from microtome.store.layers import read_columns
from microtome.sweep.sweep import sweep_table
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake) as log:
        torch.set_num_threads(snakemake.params.threads)
        sections = sweep_table(
            Path(snakemake.input.checkpoint),
            read_columns(snakemake.input.tokens),
            snakemake.params.sites,
            snakemake.params.layers,
            taps=from_plain(snakemake.params.taps),
            batch_size=snakemake.params.batch_size,
            dtype=snakemake.params.dtype,
            device=snakemake.params.device,
            log=log,
        )
        write_dataset(moments(sections), snakemake.output[0])
