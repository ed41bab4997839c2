"""Write a study's page: its figures and tables, and what its captions say of this run."""

from pathlib import Path

from microtome.page.parts import of
from microtome.page.render import render_study
from microtome.store.datasets import read_dataset
from microtome.store.files import replacing
from microtome.workflow.config import Studies
from microtome.workflow.jobs import job
from microtome.workflow.load import ROOT, load
from microtome.workflow.pages import study_page

if __name__ == "__main__":
    with job(snakemake):
        studies = Studies(snakemake.config, (Path(), ROOT))
        page = study_page(studies, snakemake.params.study)
        said = {}
        for picture in page.pictures:
            if picture.caption is None:
                continue
            say = load(picture.caption)
            for model in picture.models:
                read = [read_dataset(of(file, model)) for file in picture.reads.values()]
                said[picture.name, model] = say(*read, **picture.arguments(model))
        with replacing(snakemake.output[0]) as unfinished:
            text = render_study(page, said, snakemake.resources.command)
            unfinished.write_text(text, encoding="utf-8")
