"""The most likely tokens after the text; as text seven in a row, as the notebook has them."""

import json

import xarray as xr

from microtome.store.datasets import read_dataset
from microtome.store.tables import write_table
from microtome.workflow.jobs import job


def rows_of_seven(tokens: xr.Dataset) -> str:
    """The texts of `next_tokens`, quoted; source: LLM breakdown 4/6, demo 3."""
    # Quoted as JSON, so that a token that is a line break does not make one.
    quoted = [json.dumps(text, ensure_ascii=False) for text in tokens["text"].values.tolist()]
    rows = [",   ".join(quoted[i : i + 7]) for i in range(0, len(quoted), 7)]
    return "\n".join([f"Top {len(quoted)} possible next words:", *rows])


if __name__ == "__main__":
    with job(snakemake):
        tokens = read_dataset(snakemake.input.next_tokens)
        frame = tokens.to_dataframe().reset_index()
        write_table(frame, rows_of_seven(tokens), *snakemake.output)
