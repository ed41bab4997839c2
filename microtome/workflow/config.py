"""The config, turned into what each product is made from.

A study is a set of statistics, figures and tables over some models and stimulus sets. A
statistic reads activations (`sites`, `layers`), the token table (`tokens: true`), the checkpoint
itself (`checkpoint: true`) or other statistics (`reads`); figures and tables read statistics.
Any further key of a product is an option of its script, which has to know it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microtome.sites import FINAL_SITES, SITES

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Product:
    """A statistic, a figure or a table, as the config asks for it.

    Attributes:
        study: the study it belongs to.
        name: its own name.
        script: the name of its script.
        stimuli: the stimulus set it is about.
        sites: sites of blocks whose activations it reads.
        layers: the layers it reads them from; None is every layer of the model.
        final_sites: sites after the last block that it reads.
        tokens: whether it reads the token table.
        checkpoint: whether it reads the checkpoint: weights, or the model to run.
        swept: whether its script sweeps the model itself, so that no activations are stored.
        reads: the statistics it reads.
        options: what remains, passed to the script.
        of_model: whether it depends on a model at all.
    """

    study: str
    name: str
    script: str
    stimuli: str
    sites: tuple[str, ...]
    layers: tuple[int, ...] | None
    final_sites: tuple[str, ...]
    tokens: bool
    checkpoint: bool
    swept: bool
    reads: tuple[str, ...]
    options: dict[str, Any]
    of_model: bool


#: What a statistic may be made from, besides other statistics; all but these depend on no model.
_MODEL_KEYS = ("sites", "tokens", "checkpoint")


def statistics(config: Config, study: str) -> dict[str, Product]:
    """The statistics of a study, by name, in the order of the config."""
    entries = config["studies"][study]["statistics"]

    def of_model(name: str) -> bool:
        entry = entries[name]
        return any(map(entry.get, _MODEL_KEYS)) or any(map(of_model, entry.get("reads", [])))

    return {name: _product(config, study, name, e, of_model(name)) for name, e in entries.items()}


def readers(config: Config, study: str, kind: str) -> dict[str, Product]:
    """The figures or the tables of a study, by name, in the order of the config.

    Args:
        config: the config.
        study: the study.
        kind: `figures` or `tables`.
    """
    made = statistics(config, study)
    return {
        name: _product(config, study, name, e, any(made[read].of_model for read in e["reads"]))
        for name, e in config["studies"][study].get(kind, {}).items()
    }


def _product(config: Config, study: str, name: str, entry: Config, of_model: bool) -> Product:
    layers = entry.get("layers", "all")
    sites = entry.get("sites", ())
    reserved = {"script", "stimuli", "sites", "layers", "reads", "tokens", "checkpoint", "swept"}
    swept = entry.get("swept", False)
    return Product(
        study=study,
        name=name,
        script=entry.get("script", name),
        stimuli=entry.get("stimuli", config["studies"][study]["stimuli"]),
        sites=tuple(site for site in sites if site in SITES),
        layers=None if layers == "all" else tuple(sorted(set(layers))),
        final_sites=tuple(site for site in sites if site in FINAL_SITES),
        tokens=entry.get("tokens", False) or swept,
        checkpoint=entry.get("checkpoint", False) or swept,
        swept=swept,
        reads=tuple(entry.get("reads", ())),
        options={key: entry[key] for key in sorted(set(entry) - reserved)},
        of_model=of_model,
    )


def product_layers(config: Config, product: Product, model: str) -> list[int]:
    """The layers of a model that a product reads, ascending."""
    if product.layers is None:
        return list(range(config["models"][model]["n_layers"]))
    return list(product.layers)


@dataclass
class Sweep:
    """What the studies together want of one model and stimulus set, in the order of computation.

    Attributes:
        sites: sites of blocks.
        layers: the layers they are wanted from.
        final_sites: sites after the last block.
        start: the first block that is run.
        stop: the block at which another job goes on; None where this is the last one.
    """

    sites: list[str]
    layers: list[int]
    final_sites: list[str]
    start: int = 0
    stop: int | None = None


def sweeps(config: Config) -> dict[tuple[str, str], Sweep]:
    """What the studies together want of each (model, stimulus set)."""
    asking: dict[tuple[str, str], list[Product]] = {}
    for study, entry in config["studies"].items():
        for model in entry["models"]:
            for product in statistics(config, study).values():
                if (product.sites or product.final_sites) and not product.swept:
                    asking.setdefault((model, product.stimuli), []).append(product)
    return {
        (model, stimuli): Sweep(
            [site for site in SITES if any(site in p.sites for p in products)],
            sorted({n for p in products if p.sites for n in product_layers(config, p, model)}),
            [site for site in FINAL_SITES if any(site in p.final_sites for p in products)],
        )
        for (model, stimuli), products in asking.items()
    }


def parts(config: Config, model: str, wanted: Sweep) -> list[Sweep]:
    """A sweep as the jobs that make it, each of as many blocks as the config gives a job."""
    n_blocks = config["models"][model]["n_layers"] if wanted.final_sites else wanted.layers[-1] + 1
    size = config["sweep"].get("layers_per_job", n_blocks)
    jobs = []
    for start in range(0, n_blocks, size):
        stop = start + size if start + size < n_blocks else None
        layers = [layer for layer in wanted.layers if start <= layer < (stop or n_blocks)]
        sites = wanted.sites if layers else []
        jobs.append(Sweep(sites, layers, [] if stop else wanted.final_sites, start, stop))
    return jobs


def product_sweep(config: Config, product: Product, model: str) -> Sweep:
    """What a statistic that is made in the sweep wants of a model."""
    layers = product_layers(config, product, model) if product.sites else []
    return Sweep(list(product.sites), layers, list(product.final_sites))


def stimulus_file(config: Config, stimuli: str, base: Path) -> Path:
    """The file of a stimulus set: below the working directory, or else below `base`."""
    entry = config["stimuli"][stimuli]
    file = os.path.expanduser(entry if isinstance(entry, str) else entry["file"])
    return Path(file) if os.path.exists(file) else base / file


def tokens_kept(config: Config, stimuli: str) -> str | list[int]:
    """Whose activations a stimulus set asks for: all, last, mean, or positions in each text."""
    entry = config["stimuli"][stimuli]
    return "all" if isinstance(entry, str) else entry.get("tokens", "all")
