"""Sweep a model over a token table and keep each layer's activations."""

import json
from importlib.metadata import version
from pathlib import Path

import torch
from tqdm import tqdm

from microtome.products import job
from microtome.sections import layer_of, read_columns, row_columns, write_layers_beside
from microtome.sweep import batched, sweep

if __name__ == "__main__":
    with job(snakemake) as log:
        torch.set_num_threads(snakemake.threads)
        manifest = json.loads(Path(snakemake.input.manifest).read_text(encoding="utf-8"))
        columns = read_columns(snakemake.input.tokens)
        paths = {layer_of(path): path for path in snakemake.output}
        batches = batched(columns, snakemake.resources.batch_size)
        sections = sweep(
            Path(snakemake.input.checkpoint),
            batches,
            snakemake.params.sites,
            [layer for layer in paths if layer is not None],
            snakemake.params.final_sites,
            snakemake.params.dtype,
            snakemake.resources.device,
        )
        attributes = {key: manifest[key] for key in ("model", "source", "revision")} | {
            "dtype": snakemake.params.dtype,
            "torch": version("torch"),
            "transformers": version("transformers"),
        }
        total = len(paths) * len(batches)
        progress = tqdm(sections, total=total, unit="batch", desc="layers × batches", file=log)
        write_layers_beside(
            progress, row_columns(columns), paths, attributes, snakemake.params.store_dtype
        )
