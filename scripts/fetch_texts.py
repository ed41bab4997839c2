"""Fetch several files of texts of a stimulus set, and note what came."""

from pathlib import Path

from microtome.texts.fetched import fetch_texts
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        fetch_texts(
            snakemake.params.source,
            Path(snakemake.output.texts),
            Path(snakemake.output.note),
        )
