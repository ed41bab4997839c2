"""Put the style sheet and the script of all pages beside them."""

from pathlib import Path

from microtome.store.files import replacing
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        for source, copy in zip(snakemake.input, snakemake.output, strict=True):
            with replacing(copy) as unfinished:
                unfinished.write_bytes(Path(source).read_bytes())
