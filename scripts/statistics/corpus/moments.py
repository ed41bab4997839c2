"""Moments of activations over a corpus, made in the sweep: none is stored."""

from pathlib import Path

import torch

from microtome.statistics.moments import running_moments
from microtome.store.datasets import write_dataset
from microtome.store.layers import read_columns
from microtome.sweep.sweep import sweep_table
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake) as log:
        torch.set_num_threads(snakemake.threads)
        sections = sweep_table(
            Path(snakemake.input.checkpoint),
            read_columns(snakemake.input.tokens),
            snakemake.params.sites,
            snakemake.params.layers,
            batch_size=snakemake.resources.batch_size,
            dtype=snakemake.params.dtype,
            device=snakemake.resources.device,
            log=log,
        )
        write_dataset(running_moments(sections), snakemake.output[0])
