"""Find where the sites of a fetched model lie."""

from pathlib import Path

from microtome.models.anatomy import find_sites
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        find_sites(Path(snakemake.input.checkpoint)).write(Path(snakemake.output[0]))
