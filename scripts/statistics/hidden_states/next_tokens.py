"""The most likely tokens after the text."""

from pathlib import Path

from microtome.statistics.hidden_states import next_tokens
from microtome.store.datasets import open_layer, write_dataset
from microtome.texts.tokens import load_tokenizer
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake), open_layer(snakemake.input.final[0]) as section:
        tokenizer = load_tokenizer(Path(snakemake.input.checkpoint))
        found = next_tokens(section, tokenizer, **snakemake.params.options)
        write_dataset(found, snakemake.output[0])
