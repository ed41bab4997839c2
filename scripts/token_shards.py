"""Tokenise a stimulus set for a model, in shards that read as one table.

Only shards whose content has changed are written anew, so that no other sweep is stale.
"""

import json
import os
from pathlib import Path

import xarray as xr

from microtome.models.taps import Sites
from microtome.store.checksums import forget, record, sha256
from microtome.store.datasets import write_dataset
from microtome.store.layers import read_columns
from microtome.store.virtual import join
from microtome.texts.fetched import with_fetched
from microtome.texts.stimuli import read_set
from microtome.texts.tokens import set_tables
from microtome.workflow.jobs import job
from microtome.workflow.requirements import judge, needs_columns


def write_if_changed(table: xr.Dataset, file: Path) -> str:
    """Write a shard, unless there is one with the same bytes; return its SHA-256."""
    fresh = file.with_name(f".{file.name}")
    write_dataset(table, fresh)
    found = sha256(fresh)
    if file.exists() and sha256(file) == found:
        fresh.unlink()
    else:
        fresh.replace(file)
    record(file, {file.name: found})
    return found


if __name__ == "__main__":
    with job(snakemake):
        # The tokenizer's threads.
        os.environ["RAYON_NUM_THREADS"] = str(snakemake.threads)
        params, inputs, whole = snakemake.params, snakemake.input, Path(snakemake.output[0])
        like, fetched = inputs.get("like"), inputs.get("fetched")
        found = read_set(Path(inputs.stimuli), lambda name: Path(like))
        found = with_fetched(found, fetched and Path(fetched))
        checkpoint = Path(inputs.checkpoint)
        shards = {}
        tables = set_tables(found, checkpoint, params.tokens, params.sequences_per_job)
        for number, table in enumerate(tables):
            file = whole.with_suffix("") / f"{number:05d}.h5"
            table = table.assign_attrs(model=snakemake.wildcards.model)
            shards[file] = write_if_changed(table, file)
        for file in set(whole.with_suffix("").glob("*.h5")) - shards.keys():  # of longer texts
            file.unlink()
            forget(file)
        join(whole, shards)
        asked = json.loads(snakemake.resources.get("judged", "[]"))
        judge(
            asked,
            read_columns(whole) if needs_columns(asked) else {},
            checkpoint,
            Sites.read(Path(inputs.manifest).with_name("sites.json")),
        )
