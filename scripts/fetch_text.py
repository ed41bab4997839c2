"""Fetch the text of a stimulus set, and note what came."""

from pathlib import Path

from microtome.texts.fetched import fetch_text
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        fetch_text(
            snakemake.params.source,
            Path(snakemake.output.text),
            Path(snakemake.output.note),
            expected=snakemake.params.sha256,
        )
