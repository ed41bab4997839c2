"""Cosine similarity of each two hidden states of a token, for some tokens."""

from microtome.statistics.hidden_states import hidden_states, layer_similarity
from microtome.store.datasets import write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        states = hidden_states(snakemake.input.layers, snakemake.input.final)
        write_dataset(layer_similarity(states, **snakemake.params.options), snakemake.output[0])
