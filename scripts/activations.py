"""Sweep a model over a token table and keep each layer's activations."""

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch

from microtome.store.layers import (
    Section,
    layer_of,
    read_columns,
    read_section,
    write_layers,
    write_layers_beside,
)
from microtome.sweep.sweep import sweep_table
from microtome.texts.rows import row_columns
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake) as log:
        torch.set_num_threads(snakemake.threads)
        manifest = json.loads(Path(snakemake.input.manifest).read_text(encoding="utf-8"))
        columns = read_columns(snakemake.input.tokens)
        paths = {layer_of(path): path for path in snakemake.output.layers}
        entering, leaving = snakemake.input.entering, snakemake.output.leaving
        attributes = {key: manifest[key] for key in ("model", "source", "revision")} | {
            "dtype": snakemake.params.dtype,
            "torch": version("torch"),
            "transformers": version("transformers"),
        }

        def hand_on(sections: Iterator[Section]) -> None:
            """Write what enters the next job's first block: all tokens, and not a bit less."""
            tokens = {name: values for name, values in columns.items() if name != "row"}
            files = {layer_of(path): path for path in leaving}
            write_layers(sections, tokens, files, attributes, snakemake.params.dtype)

        sections = sweep_table(
            Path(snakemake.input.checkpoint),
            columns,
            snakemake.params.sites,
            [layer for layer in paths if layer is not None],
            snakemake.params.final_sites,
            batch_size=snakemake.resources.batch_size,
            dtype=snakemake.params.dtype,
            device=snakemake.resources.device,
            log=log,
            entering=read_section(entering[0]) if entering else None,
            stop=layer_of(leaving[0]) if leaving else None,
            leaving=hand_on if leaving else None,
        )
        store_dtype = snakemake.params.store_dtype
        write_layers_beside(sections, row_columns(columns), paths, attributes, store_dtype)
