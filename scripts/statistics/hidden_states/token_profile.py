"""One token's activations in every hidden state, and their variance."""

from microtome.statistics.hidden_states import hidden_states, token_profile
from microtome.store.datasets import write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        states = hidden_states(snakemake.input.layers, snakemake.input.final)
        write_dataset(token_profile(states, **snakemake.params.options), snakemake.output[0])
