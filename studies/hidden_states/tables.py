"""Tables of the study on hidden states; see README.md."""

import json

import xarray as xr

from microtome.store.tables import Table


def next_tokens(next_tokens: xr.Dataset) -> Table:
    """One row per token, the most likely first; in the text seven in a row, as the notebook has it.

    Source: LLM breakdown 4/6, demo 3.
    """
    # Quoted as JSON, so that a token that is a line break does not make one.
    quoted = [json.dumps(text, ensure_ascii=False) for text in next_tokens["text"].values.tolist()]
    rows = [",   ".join(quoted[i : i + 7]) for i in range(0, len(quoted), 7)]
    text = "\n".join([f"Top {len(quoted)} possible next words:", *rows])
    return Table(next_tokens.to_dataframe().reset_index(), text)
