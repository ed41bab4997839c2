"""Draw what the start page shows of a study across models: a variable by relative depth."""

from microtome.errors import MicrotomeError
from microtome.figures.depth import depth_profiles
from microtome.figures.style import save, style
from microtome.statistics.depth import by_depth, laminar
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job

if __name__ == "__main__":
    with job(snakemake):
        params = snakemake.params
        profiles = {}
        for model, file in zip(params.n_layers, snakemake.input, strict=True):
            try:
                profiles[model] = laminar(read_dataset(file), params.variable, params.at)
            except MicrotomeError as error:
                raise MicrotomeError(f"{params.key}: {file}: {error}") from None
        with style(params.style["theme"]):
            figure = depth_profiles(by_depth(profiles, params.n_layers), label=params.label)
            save(figure, *snakemake.output, dpi=params.style["dpi"])
