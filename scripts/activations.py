"""Sweep a model over a token table and keep each layer's activations."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import torch

from microtome.models.taps import from_plain
from microtome.store.checksums import sha256
from microtome.store.layers import (
    Section,
    layer_of,
    read_columns,
    read_section,
    write_layers,
    write_layers_beside,
)
from microtome.sweeps.sweep import sweep_table
from microtome.texts.rows import row_columns
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake) as log:
        params = snakemake.params
        # The config's number, not that of the cores granted: last digits depend on it.
        torch.set_num_threads(params.threads)
        manifest = json.loads(Path(snakemake.input.manifest).read_text(encoding="utf-8"))
        columns = read_columns(snakemake.input.tokens)
        paths = {layer_of(path): path for path in snakemake.output.layers}
        resid_in, resid_out = snakemake.input.resid_in, snakemake.output.resid_out
        attributes = {key: manifest[key] for key in ("model", "source", "revision")} | {
            "dtype": params.dtype,
            "torch": version("torch"),
            "transformers": version("transformers"),
        }

        def write_resid(sections: Iterator[Section]) -> None:
            """Write what enters the next job's first block: all tokens, and not a bit less."""
            tokens = {name: values for name, values in columns.items() if name != "row"}
            files = {layer_of(path): path for path in resid_out}
            write_layers(sections, tokens, files, attributes, params.dtype)

        sections = sweep_table(
            Path(snakemake.input.checkpoint),
            columns,
            params.sites,
            [layer for layer in paths if layer is not None],
            params.final_sites,
            taps=from_plain(params.taps),
            batch_tokens=params.batch_tokens,
            dtype=params.dtype,
            device=params.device,
            log=log,
            resid_in=read_section(resid_in[0]) if resid_in else None,
            stop=layer_of(resid_out[0]) if resid_out else None,
            resid_out=write_resid if resid_out else None,
            steady=hasattr(snakemake.wildcards, "shard"),
        )
        write_layers_beside(
            *(sections, row_columns(columns), paths, attributes),
            **params.store,
            sizes=manifest,
            threads=params.threads,
        )
        if snakemake.output.get("sums"):
            files = sorted(map(Path, snakemake.output.layers))
            with ThreadPoolExecutor(params.threads) as pool:
                found = zip(pool.map(sha256, files), files, strict=True)
                lines = [f"{digest}  {file.name}\n" for digest, file in found]
            Path(snakemake.output.sums[0]).write_text("".join(lines), encoding="utf-8")
