"""Tokenise a stimulus set for a model."""

from pathlib import Path

from microtome.store.datasets import write_dataset
from microtome.texts.stimuli import read_stimuli
from microtome.texts.tokens import token_table
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        stimuli = read_stimuli(Path(snakemake.input.stimuli))
        checkpoint = Path(snakemake.input.checkpoint)
        table = token_table(stimuli, checkpoint, snakemake.params.tokens)
        write_dataset(table.assign_attrs(model=snakemake.wildcards.model), snakemake.output[0])
