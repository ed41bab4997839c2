"""Write the start page."""

from pathlib import Path

from microtome.page.render import render_start
from microtome.store.files import replacing
from microtome.workflow.config import Studies
from microtome.workflow.jobs import job
from microtome.workflow.load import ROOT
from microtome.workflow.pages import start_page

if __name__ == "__main__":
    with job(snakemake):
        page = start_page(Studies(snakemake.config, (Path(), ROOT)))
        with replacing(snakemake.output[0]) as unfinished:
            unfinished.write_text(render_start(page), encoding="utf-8")
