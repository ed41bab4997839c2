"""The ways from a corpus to sequences of token ids on disk, each run in a process of its own.

    python -m benchmarks.tokenising WAY NAME TASK

As in `benchmarks.ways`: imports come first, then the clock starts, and `report` stops it when the
last token is there.
"""

import json
import os
import runpy
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

from benchmarks.process import REPOSITORY, report, report_arrays
from benchmarks.scratch import CORPUS, checkpoint, manifest, tokens
from benchmarks.ways import Named


@dataclass(frozen=True)
class Task:
    """What is tokenised: the scratch folder's corpus, each document in sequences.

    Attributes:
        model: a checkpoint of the scratch folder, with a tokenizer.
        length: tokens of each sequence; the last one of a document may have fewer.
    """

    MODULE: ClassVar[str] = "benchmarks.tokenising"

    model: str
    length: int

    def argument(self) -> str:
        """The task as an argument of a command."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, argument: str) -> "Task":
        """The task from an argument of a command."""
        return cls(**json.loads(argument))


class Input(Named):
    """Inputs that may be asked for by name."""

    def get(self, name: str) -> str | None:
        """The file of a name, or None."""
        return self.__dict__.get(name)


def token_table(name: str, task: Task) -> None:
    """Run the workflow's own script as Snakemake would: one token table, flushed to disk."""
    stimuli, output = Path(f"corpus-{task.length}.yaml"), tokens(task.model, "corpus")
    said = {"source": "x", "corpus": str(CORPUS), "cut": {"length": str(task.length)}}
    stimuli.write_text(json.dumps(said), encoding="utf-8")
    path = str(REPOSITORY / "scripts" / "token_table.py")
    runpy.run_path(path)  # its imports alone: the rest runs as __main__ only
    from transformers import AutoTokenizer  # noqa: F401  # which the script imports on first use

    from microtome.models.anatomy import find_sites

    find_sites(checkpoint(task.model)).write(manifest(task.model).with_name("sites.json"))
    imported = time.perf_counter()
    job = SimpleNamespace(
        input=Input(
            manifest=str(manifest(task.model)),
            checkpoint=str(checkpoint(task.model)),
            stimuli=str(stimuli),
            corpus=[str(CORPUS)],
        ),
        output=[str(output)],
        log=["results/logs/token_table.log"],
        params=SimpleNamespace(tokens="all", sequences_per_job=None),
        resources={},
        wildcards=SimpleNamespace(model=task.model),
        threads=os.cpu_count(),
    )
    runpy.run_path(path, init_globals={"snakemake": job}, run_name="__main__")
    report(imported, bytes=output.stat().st_size)
    import xarray as xr

    table = xr.open_dataset(output, engine="h5netcdf")
    columns = ("token_id", "sequence") if name else ()
    report_arrays(name, ((column, table[column].values) for column in columns))


def datasets_map(name: str, task: Task) -> None:
    """Map a data set of the same file to sequences of token ids, in two processes."""
    import numpy as np
    from datasets import load_dataset
    from transformers import AutoTokenizer

    cache = Path("datasets-cache")
    shutil.rmtree(cache, ignore_errors=True)
    imported = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint(task.model))

    def cut(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        found = tokenizer(
            batch["text"],
            add_special_tokens=False,
            truncation=True,
            max_length=task.length,
            return_overflowing_tokens=True,
            return_attention_mask=False,
        )
        return {"input_ids": found["input_ids"]}

    read = load_dataset("json", data_files=str(CORPUS), split="train", cache_dir=str(cache))
    begun = time.perf_counter()
    mapped = read.map(cut, batched=True, num_proc=2, remove_columns=read.column_names)
    passes = time.perf_counter() - begun
    size = sum(Path(file["filename"]).stat().st_size for file in mapped.cache_files)
    report(imported, bytes=size, passes=passes)
    if name:
        columns = mapped.with_format("numpy")["input_ids"][:]
        lengths = [len(ids) for ids in columns]
        ids = np.concatenate(columns).astype(np.int32)
        sequence = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        report_arrays(name, (("token_id", ids), ("sequence", sequence)))
    else:
        report_arrays(name, ())


WAYS: dict[str, Callable[[str, Task], None]] = {
    way.__name__: way for way in (token_table, datasets_map)
}


if __name__ == "__main__":
    WAYS[sys.argv[1]](sys.argv[2], Task.read(sys.argv[3]))
