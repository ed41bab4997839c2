"""Make a figure: call its function with the statistics it reads, and save what it draws."""

from microtome.figures.style import save, style, token_texts
from microtome.store.datasets import read_dataset
from microtome.workflow.inputs import arguments
from microtome.workflow.jobs import job
from microtome.workflow.load import load

if __name__ == "__main__":
    with job(snakemake):
        statistics = [read_dataset(path) for path in snakemake.input]
        with style(snakemake.params.style["theme"], token_texts(statistics)):
            draw = load(snakemake.params.function)
            figure = draw(*statistics, **arguments(snakemake.params.options))
            save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
