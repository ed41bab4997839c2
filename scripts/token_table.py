"""Tokenise a stimulus set for a model."""

from pathlib import Path

from microtome.products import job
from microtome.stimuli import read_stimuli
from microtome.store import write_dataset
from microtome.tokens import token_table

if __name__ == "__main__":
    with job(snakemake):
        stimuli = read_stimuli(Path(snakemake.input.stimuli))
        checkpoint = Path(snakemake.input.checkpoint)
        table = token_table(stimuli, checkpoint, snakemake.params.tokens)
        write_dataset(table.assign_attrs(model=snakemake.wildcards.model), snakemake.output[0])
