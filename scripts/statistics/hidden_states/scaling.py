"""What scaling each block's output does to the prediction of a target token."""

from pathlib import Path

import torch

from microtome.statistics.hidden_states import scaling, token_ids
from microtome.store.datasets import read_dataset, write_dataset
from microtome.sweep.interventions import scaled_blocks
from microtome.texts.tokens import load_tokenizer, target_id
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        torch.set_num_threads(snakemake.threads)
        options, checkpoint = snakemake.params.options, Path(snakemake.input.checkpoint)
        target = target_id(load_tokenizer(checkpoint), options["target"])
        ids = token_ids(read_dataset(snakemake.input.tokens))
        predicted = scaled_blocks(checkpoint, ids, options["factor"])
        write_dataset(scaling(predicted, target), snakemake.output[0])
