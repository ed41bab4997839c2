# What jobs ask a scheduler for: it follows from the model's shape and the texts' lengths.
import json

from microtome.sweep import cost
from microtome.texts.stimuli import read_stimuli


def read_model(manifest):
    """A model's shape; while there is no manifest yet, Snakemake says <TBD> and asks again."""
    return cost.model(json.loads(Path(manifest).read_text(encoding="utf-8")))


def sweep_settings():
    """The part of the config that a job's cost follows."""
    own = ("batch_size", "threads", "dtype", "store_dtype")
    return {key: config["sweep"][key] for key in own}


def sweep_needs(resource, wanted_of):
    """A resource function: what a sweep asks a scheduler for.

    Args:
        resource: `mem_mb` or `runtime`.
        wanted_of: gives the job's `settings.Sweep` for its wildcards.
    """

    def needed(wildcards, input):
        return cost.sweep(
            read_model(input.manifest),
            cost.lengths(input.tokens),
            **vars(wanted_of(wildcards)),
            rows=cost.rows(input.tokens),
            **sweep_settings(),
        )

    return asked(resource, needed)


def branches_need(resource):
    """A resource function: what a statistic that runs the model with branches asks for."""

    def needed(wildcards, input):
        length = max(cost.lengths(input.tokens))
        model, threads = read_model(input.manifest), config["sweep"]["threads"]
        return cost.branches(model, length, threads=threads)

    return asked(resource, needed)


def asked(resource, needed):
    """A resource function from one that computes the cost of a job."""

    def ask(wildcards, input, attempt):
        try:
            return getattr(needed(wildcards, input), resource)(attempt)
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError):  # damaged: the job itself says which and how
            return {"mem_mb": 1000, "runtime": 10}[resource]

    return ask


def statistic_needs(product, resource):
    """What a statistic asks for: as a sweep, if it is one, or as one that runs the model."""
    if product.streamed:
        return sweep_needs(resource, lambda wildcards: studies.stream(product, wildcards.model))
    if product.runs_model:
        return branches_need(resource)
    return {"mem_mb": 1000, "runtime": 10}[resource]


def planned_sweeps():
    """Every sweep that the config asks for: its jobs, and the characters of each text."""

    def characters(stimuli):
        return [len(s.text) for s in read_stimuli(studies.stimulus_file(stimuli))]

    return [
        {
            "model": model,
            "stimuli": stimuli,
            "texts": characters(stimuli),
            "jobs": [vars(part) for part in studies.parts(model, wanted)],
        }
        for (model, stimuli), wanted in SWEEPS.items()
    ]
