"""Sweep a model over a token table and keep each layer's activations."""

import json
from importlib.metadata import version
from pathlib import Path

import torch

from microtome.products import job
from microtome.sections import layer_of, read_columns, row_columns, write_layers_beside
from microtome.sweep import sweep_table

if __name__ == "__main__":
    with job(snakemake) as log:
        torch.set_num_threads(snakemake.threads)
        manifest = json.loads(Path(snakemake.input.manifest).read_text(encoding="utf-8"))
        columns = read_columns(snakemake.input.tokens)
        paths = {layer_of(path): path for path in snakemake.output}
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
        )
        attributes = {key: manifest[key] for key in ("model", "source", "revision")} | {
            "dtype": snakemake.params.dtype,
            "torch": version("torch"),
            "transformers": version("transformers"),
        }
        store_dtype = snakemake.params.store_dtype
        write_layers_beside(sections, row_columns(columns), paths, attributes, store_dtype)
