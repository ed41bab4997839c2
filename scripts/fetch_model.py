"""Make a model's checkpoint folder from its source, describe it, and check what it promises."""

import json
from pathlib import Path
from typing import Any

from microtome.errors import MicrotomeError
from microtome.models.anatomy import find_sites
from microtome.models.fetch import fetch, manifest
from microtome.models.sources import parse_source
from microtome.store.checksums import record
from microtome.workflow.jobs import job


def main(
    name: str,
    model: dict[str, Any],
    reference: Path | None,
    checkpoint: Path,
    manifest_file: Path,
    sites_file: Path,
) -> None:
    """Fetch one model; see `microtome.models.fetch`.

    Args:
        name: the model's name in the config.
        model: its entry there.
        reference: the checkpoint folder an untrained model copies its architecture from.
        checkpoint: the folder to make.
        manifest_file: the manifest to write.
        sites_file: where to write where its sites lie.
    """
    source = parse_source(model["source"], allow_unpinned=model.get("allow_unpinned", False))
    revision = fetch(source, checkpoint, reference=reference)
    found = manifest(checkpoint, name=name, source=model["source"], revision=revision)
    if found["n_layers"] != model["n_layers"]:
        raise MicrotomeError(
            f"models.{name}.n_layers: the config says {model['n_layers']}, the checkpoint has "
            f"{found['n_layers']}; correct the config"
        )
    # So that the end of the job need not read the weights again.
    record(checkpoint, {file: entry["sha256"] for file, entry in found["weights"].items()})
    find_sites(checkpoint).write(sites_file)
    manifest_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with job(snakemake):
        reference = snakemake.input.get("reference")
        main(
            snakemake.wildcards.model,
            snakemake.params.model,
            Path(reference).with_name("checkpoint") if reference else None,
            Path(snakemake.output.checkpoint),
            Path(snakemake.output.manifest),
            Path(snakemake.output.sites),
        )
