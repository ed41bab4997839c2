"""Tokenise a stimulus set for a model, and judge what the studies ask of both.

The table is one file, or shards that read as one. Of these, only those whose content has changed
are written anew, so that no other sweep is stale.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import xarray as xr

from microtome.models.taps import Sites
from microtome.store.checksums import forget, record, sha256
from microtome.store.datasets import read_dataset, write_dataset
from microtome.store.virtual import join
from microtome.texts.fetched import with_fetched
from microtome.texts.rows import token_columns
from microtome.texts.stimuli import read_set
from microtome.texts.tokens import set_tables
from microtome.workflow.jobs import job
from microtome.workflow.requirements import judge, needs_columns


def write_shards(tables: Iterator[xr.Dataset], whole: Path) -> None:
    """Write the shards of a table, and the file that reads as all of them."""
    folder, shards = whole.with_suffix(""), {}
    for number, table in enumerate(tables):
        file = folder / f"{number:05d}.h5"
        shards[file] = write_if_changed(table, file)
    for file in set(folder.glob("*.h5")) - shards.keys():  # of longer texts
        file.unlink()
        forget(file)
    join(whole, shards)


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
        checkpoint, size = Path(inputs.checkpoint), params.sequences_per_job
        tables = (
            table.assign_attrs(model=snakemake.wildcards.model)
            for table in set_tables(found, checkpoint, params.tokens, size)
        )
        if size is None:
            [table] = tables
            write_dataset(table, whole)
        else:
            write_shards(tables, whole)
        # A resource and no param: what is asked changes nothing in the table and makes none stale.
        asked = json.loads(snakemake.resources.get("judged", "[]"))
        judge(
            asked,
            token_columns(read_dataset(whole)) if needs_columns(asked) else {},
            checkpoint,
            Sites.read(Path(inputs.manifest).with_name("sites.json")),
        )
