"""One token's activations in every hidden state, and their variance."""

from microtome.statistics.distributions import token_profile
from microtome.statistics.layers import by_layer, stack_hidden_states
from microtome.store.datasets import open_layer, write_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake), open_layer(snakemake.input.final[0]) as final:
        entered = by_layer(snakemake.input.layers, lambda section: section[["resid_pre"]].load())
        states = stack_hidden_states(entered["resid_pre"], final["ln_final"])
        write_dataset(token_profile(states, **snakemake.params.options), snakemake.output[0])
