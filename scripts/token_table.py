"""Tokenise a stimulus set for a model, and judge what the studies ask of both."""

import json
import os
from pathlib import Path

from microtome.models.taps import Sites
from microtome.store.datasets import write_dataset
from microtome.texts.fetched import with_fetched
from microtome.texts.rows import token_columns
from microtome.texts.stimuli import read_set
from microtome.texts.tokens import set_table
from microtome.workflow.jobs import job
from microtome.workflow.requirements import judge

if __name__ == "__main__":
    with job(snakemake):
        # The tokenizer's threads.
        os.environ["RAYON_NUM_THREADS"] = str(snakemake.threads)
        like, fetched = snakemake.input.get("like"), snakemake.input.get("fetched")
        found = read_set(Path(snakemake.input.stimuli), lambda name: Path(like))
        found = with_fetched(found, fetched and Path(fetched))
        checkpoint = Path(snakemake.input.checkpoint)
        table = set_table(found, checkpoint, snakemake.params.tokens)
        # A resource and no param: what is asked changes nothing in the table and makes none stale.
        asked = json.loads(snakemake.resources.get("judged", "[]"))
        judge(
            asked,
            token_columns(table),
            checkpoint,
            Sites.read(Path(snakemake.input.manifest).with_name("sites.json")),
        )
        write_dataset(table.assign_attrs(model=snakemake.wildcards.model), snakemake.output[0])
