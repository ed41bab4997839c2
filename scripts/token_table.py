"""Tokenise a stimulus set for a model, and judge what the studies ask of both.

The table is one file, or shards that read as one. Of these, only those whose content has changed
are written anew, so that no other sweep is stale.
"""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xarray as xr

from microtome.models.taps import Sites
from microtome.store.checksums import record, remove_other_shards, sha256
from microtome.store.datasets import read_dataset, write_dataset, write_unflushed
from microtome.store.files import flush_and_rename
from microtome.store.virtual import join
from microtome.texts.fetched import with_fetched
from microtome.texts.rows import token_columns
from microtome.texts.stimuli import read_set
from microtome.texts.tokens import set_tables
from microtome.workflow.jobs import job
from microtome.workflow.requirements import judge, needs_columns


def write_shards(tables: Iterator[xr.Dataset], whole: Path) -> None:
    """Write the shards of a table, and the file that reads as all of them."""
    folder, kept = whole.with_suffix(""), {}
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:  # which waits for the disk while the next one is written
        for number, table in enumerate(tables):
            file = folder / f"{number:05d}.h5"
            fresh = file.with_name(f".{file.name}")
            write_unflushed(table, fresh)
            kept[file] = pool.submit(keep_if_changed, fresh, file)
    shards = {file: digest.result() for file, digest in kept.items()}
    remove_other_shards(folder, shards)
    join(whole, shards)


def keep_if_changed(fresh: Path, file: Path) -> str:
    """Put a shard in its place, unless there is one with the same bytes; return its SHA-256."""
    found = sha256(fresh)
    if file.exists() and sha256(file) == found:
        fresh.unlink()
    else:
        flush_and_rename(fresh, file)
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
