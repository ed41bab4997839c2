"""Print what the sweeps of a config cost, before anything runs.

A model that is not here yet is known by its config alone: a folder's or a GGUF's own, or the
config.json of a hub repository, which is asked for nothing else. Its texts are then counted in
characters, about four to a token.
"""

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

from microtome.errors import MicrotomeError, in_short
from microtome.model.sources import Folder, Hub, Package, Untrained, parse_source
from microtome.sweep import cost

CHARACTERS_PER_TOKEN = 4
HEADINGS = ("model", "stimuli", "tokens", "layers", "and layer", "disk", "memory", "time")
LINE = "{:20} {:18} {:>8} {:>6} {:>9} {:>8} {:>8} {:>8}"
UNITS = ("B", "kB", "MB", "GB", "TB")


def shape(models: dict[str, Any], name: str) -> cost.Model:
    """A model's shape, from its manifest, or else from its config.

    Raises:
        MicrotomeError: neither is to be had.
    """
    manifest = Path("results/models", name, "manifest.json")
    if manifest.exists():
        found = json.loads(manifest.read_text(encoding="utf-8"))
        if found["source"] == models[name]["source"]:
            return cost.model(found)
    source = parse_source(models[name]["source"], allow_unpinned=True)
    if isinstance(source, Untrained):
        return shape(models, source.model)
    return of_config(source)


@cache
def of_config(source: Folder | Hub | Package) -> cost.Model:
    """The shape of a model of which only the config is here."""
    from transformers import AutoConfig

    from microtome.model.checkpoint import read_config, sizes
    from microtome.model.skeleton import skeleton

    try:
        match source:
            case Folder(path):
                config = read_config(path)
            case Hub(repository, revision):
                config = AutoConfig.from_pretrained(
                    repository, revision=revision, trust_remote_code=False
                )
            case Package(package, file):
                from importlib.metadata import distribution

                files = distribution(package).files or []
                gguf = next(f.locate() for f in files if f.as_posix().endswith(f"/{file}"))
                config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except Exception as error:  # no network, no such package, no such file in it
        raise MicrotomeError(f"unknown until it is fetched ({in_short(error)})") from error
    # A GGUF is unpacked into float32; other checkpoints are kept in their own dtype.
    dtype = "float32" if isinstance(source, Package) else str(config.dtype).removeprefix("torch.")
    tensors = {
        name: {"dtype": dtype, "shape": list(tensor.shape)}
        for name, tensor in skeleton(config).named_parameters()
    }
    return cost.model({"architecture": config.model_type, **sizes(config), "tensors": tensors})


def lengths(model: str, stimuli: str, texts: list[int]) -> tuple[list[int], bool]:
    """Tokens of each text, and whether they were counted or guessed.

    Args:
        model: the model's name.
        stimuli: the stimulus set's name.
        texts: characters of each text.
    """
    table = Path("results/tokens", model, f"{stimuli}.h5")
    if table.exists():
        return cost.lengths(table), True
    return [math.ceil(characters / CHARACTERS_PER_TOKEN) for characters in texts], False


def human(number: float) -> str:
    """Bytes in a unit that leaves up to three digits."""
    power = min(len(UNITS) - 1, int(math.log(max(number, 1), 1000)))
    return f"{number / 1000**power:.3g} {UNITS[power]}"


def row(
    sweep: dict[str, Any], model: cost.Model, settings: dict[str, Any]
) -> tuple[str, cost.Cost]:
    """A sweep's line of the plan, and what it costs."""
    tokens, counted = lengths(sweep["model"], sweep["stimuli"], sweep["texts"])
    jobs = [cost.sweep(model, tokens, **job, **settings) for job in sweep["jobs"]]
    needed = cost.Cost(
        memory=max(job.memory for job in jobs),
        disk=sum(job.disk for job in jobs),
        seconds=sum(job.seconds for job in jobs),
    )
    store_dtype = settings["store_dtype"]
    sites = max((job["sites"] for job in sweep["jobs"]), key=len)
    per_token = sum(cost.bytes_per_token(model.sizes, site, store_dtype) for site in sites)
    line = LINE.format(
        sweep["model"],
        sweep["stimuli"],
        f"{'' if counted else '≈'}{sum(tokens)}",
        sum(len(job["layers"]) for job in sweep["jobs"]),
        human(per_token),
        human(needed.disk),
        human(needed.memory),
        f"{math.ceil(needed.seconds)} s",
    )
    return line, needed


def main(models: dict[str, Any], sweeps: list[dict[str, Any]], settings: dict[str, Any]) -> None:
    """Print a line for each sweep, and their sum."""
    print(LINE.format("", "", "", "", "a token", "", "", ""))
    print(LINE.format(*HEADINGS))
    shapes: dict[str, cost.Model | MicrotomeError] = {}
    costs = []
    for sweep in sweeps:
        name = sweep["model"]
        if name not in shapes:
            try:
                shapes[name] = shape(models, name)
            except MicrotomeError as error:
                shapes[name] = error
        if isinstance(shapes[name], MicrotomeError):
            print(f"{name:20} {sweep['stimuli']:18} {shapes[name]}")
            continue
        line, needed = row(sweep, shapes[name], settings)
        print(line)
        costs.append(needed)
    if costs:
        print(
            f"In all {human(sum(c.disk for c in costs))} on disk, "
            f"{human(max(c.memory for c in costs))} of memory at most, and "
            f"{math.ceil(sum(c.seconds for c in costs) / 60)} min for one sweep after another "
            f"with {settings['threads']} threads."
        )


if __name__ == "__main__":
    main(snakemake.params.models, snakemake.params.sweeps, snakemake.params.settings)
