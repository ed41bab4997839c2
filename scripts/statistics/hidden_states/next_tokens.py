"""The most likely tokens after the text."""

from transformers import AutoTokenizer

from microtome.statistics.prediction import next_tokens
from microtome.store.datasets import open_layer, write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake), open_layer(snakemake.input.final[0]) as section:
        tokenizer = AutoTokenizer.from_pretrained(
            snakemake.input.checkpoint, local_files_only=True, trust_remote_code=False
        )
        found = next_tokens(section, tokenizer, **snakemake.params.options)
        write_dataset(found, snakemake.output[0])
