"""What scaling each block's output does to the prediction of a target token."""

from pathlib import Path

import torch
from transformers import AutoTokenizer

from microtome.statistics.hidden_states import scaling, target_id, token_ids
from microtome.store.datasets import read_dataset, write_dataset
from microtome.sweep.interventions import scaled_blocks
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        torch.set_num_threads(snakemake.params.threads)
        options, checkpoint = snakemake.params.options, snakemake.input.checkpoint
        tokenizer = AutoTokenizer.from_pretrained(
            checkpoint, local_files_only=True, trust_remote_code=False
        )
        target = target_id(tokenizer, options["target"])
        ids = token_ids(read_dataset(snakemake.input.tokens))
        predicted = scaled_blocks(Path(checkpoint), ids, options["factor"])
        write_dataset(scaling(predicted, target), snakemake.output[0])
