"""Put the style sheet and the script of all pages beside them."""

from pathlib import Path

from microtome.page.files import TEMPLATES
from microtome.store.files import replacing
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        for file in snakemake.output:
            with replacing(file) as unfinished:
                unfinished.write_bytes((TEMPLATES / Path(file).name).read_bytes())
