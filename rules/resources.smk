# The memory and time that jobs request, from the model's shape and the texts' lengths.
import json

from microtome.sweep import cost
from microtome.texts.stimuli import read_stimuli


def runs_model(product):
    """Whether a statistic runs the model itself: it reads both the checkpoint and tokens."""
    return product.checkpoint and product.tokens


def read_model(manifest):
    """A model's shape. Without a manifest yet, Snakemake shows <TBD> and calls this later."""
    return cost.model(json.loads(Path(manifest).read_text(encoding="utf-8")))


def sweep_settings():
    """The part of the config that a job's cost depends on."""
    own = ("batch_size", "threads", "dtype", "store_dtype")
    return {key: config["sweep"][key] for key in own}


def sweep_needs(resource, wanted_of):
    """A function for a sweep's `resources:`.

    Args:
        resource: `mem_mb` or `runtime`.
        wanted_of: function from a job's wildcards to its `settings.Sweep`.
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
    """A function for the `resources:` of a statistic that runs the model with branches."""

    def needed(wildcards, input):
        length = max(cost.lengths(input.tokens))
        model, threads = read_model(input.manifest), config["sweep"]["threads"]
        return cost.branches(model, length, threads=threads)

    return asked(resource, needed)


def asked(resource, needed):
    """A function for `resources:` from one that computes a job's cost."""

    def ask(wildcards, input, attempt):
        try:
            return getattr(needed(wildcards, input), resource)(attempt)
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError):  # a damaged file: the job reports it
            return {"mem_mb": 1000, "runtime": 10}[resource]

    return ask


def statistic_needs(product, resource):
    """A statistic's resource, by whether it sweeps the model, runs it with branches, or neither."""
    if product.swept:
        return sweep_needs(
            resource, lambda wildcards: settings.product_sweep(config, product, wildcards.model)
        )
    if runs_model(product):
        return branches_need(resource)
    return {"mem_mb": 1000, "runtime": 10}[resource]


def planned_sweeps():
    """Every sweep of the config: its jobs, and the number of characters of each text."""

    def characters(stimuli):
        return [len(s.text) for s in read_stimuli(settings.stimulus_file(config, stimuli, ROOT))]

    return [
        {
            "model": model,
            "stimuli": stimuli,
            "texts": characters(stimuli),
            "jobs": [vars(part) for part in settings.parts(config, model, wanted)],
        }
        for (model, stimuli), wanted in settings.sweeps(config).items()
    ]
