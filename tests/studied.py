"""Studies as the workflow runs them: layer files of a stimulus set, and functions on these."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
import xarray as xr
import yaml
from conftest import Files
from hooked import taps_at

from microtome.interventions.declared import declared as read_declaration
from microtome.interventions.run import intervene
from microtome.options import layer_number
from microtome.statistics.layers import stack_layers
from microtome.store.datasets import open_layer, read_dataset, write_dataset
from microtome.store.layers import write_layers
from microtome.sweeps.batches import batched
from microtome.sweeps.sweep import sweep
from microtome.texts.tokens import load_tokenizer
from microtome.workflow.inputs import compute
from microtome.workflow.load import load
from microtome.workflow.products import declaration

ROOT = Path(__file__).parents[1]


def study(name: str) -> dict:
    """What the study.yaml of a study says."""
    file = ROOT / "studies" / name / "study.yaml"
    described = yaml.safe_load(file.read_text(encoding="utf-8"))
    for entry in described.get("interventions", {}).values():
        change = entry["change"]
        if isinstance(change, dict) and "use" in change:  # a function of the study's own
            change["use"] = load(f"studies/{name}/changes.py:{change['use']}")
    return described


def product(name: str, kind: str, entry: str) -> Callable:
    """The function that makes a product of a study: of the kind statistics, figures or tables."""
    used = study(name)[kind].get(entry, {}).get("use", entry)
    owner, _, function = used.rpartition(".")
    return load(f"studies/{owner or name}/{kind}.py:{function}")


def layer_files(
    folder: Path,
    checkpoint: Path,
    table: xr.Dataset,
    sites: Sequence[str],
    layers: Sequence[int],
    final_sites: Sequence[str] = (),
    dtype: str = "float32",
) -> list[Path]:
    """Sweep a token table into the files of some layers, and last that of final sites, if any."""
    paths = {layer: folder / f"layer-{layer:02d}.h5" for layer in layers}
    if final_sites:
        paths[None] = folder / "final.h5"
    batches = batched(table, 1024)
    sections = sweep(checkpoint, batches, sites, layers, final_sites, taps=taps_at(checkpoint))
    write_layers(sections, table.coords, paths, {}, dtype)
    return list(paths.values())


def by_layer(paths: Sequence[Path], statistic: Callable[[xr.Dataset], xr.Dataset]) -> xr.Dataset:
    """A statistic of layer files along a first dimension `layer`."""

    def results():
        for path in paths:
            with open_layer(path) as section:
                yield int(section.attrs["layer"]), statistic(section)

    return stack_layers(results(), len(paths))


def intervened(
    name: str, intervention: str, checkpoint: Path, tokens: Path, **keys: object
) -> xr.Dataset:
    """Run an intervention of a study, on its own texts; some of its keys may be others."""
    declared = study(name)["interventions"][intervention]
    return intervene(
        checkpoint,
        read_dataset(tokens).coords,
        read_declaration(declaration(declared | keys)),
        taps=taps_at(checkpoint),
        tokenizer=load_tokenizer(checkpoint),
    )


def statistics(
    name: str, folder: Path, inputs: Mapping[str, Mapping[str, object]], **options: int
) -> dict[str, xr.Dataset]:
    """Make the interventions and statistics of a study, in order, each read back from its file.

    Args:
        name: the study.
        folder: where the files go.
        inputs: by stimulus set, the files that a job reads: `layers`, `final`, `tokens`,
            `checkpoint` and `manifest`.
        options: values in the place of those that study.yaml gives options of these names.
    """
    described, made = study(name), {}
    for intervention, entry in described.get("interventions", {}).items():
        given = inputs[entry.get("stimuli", described["stimuli"])]
        outcome = intervened(name, intervention, given["checkpoint"], given["tokens"])
        write_dataset(outcome, folder / f"{intervention}.h5")
        made[intervention] = read_dataset(folder / f"{intervention}.h5")
    for statistic, entry in described["statistics"].items():
        function = product(name, "statistics", statistic)
        entry.pop("use", None)
        given = dict(inputs[entry.pop("stimuli", described["stimuli"])])
        entry |= {option: value for option, value in options.items() if option in entry}
        parameters = inspect.signature(function).parameters
        if "layer" in entry:
            entry["layer"] = layer_number(entry["layer"], len(given["layers"]))
        if "section" in parameters and "layer" in entry:
            given["layers"] = [given["layers"][entry["layer"]]]
        bound = entry.pop("reads", {})
        reads = [read for read in parameters if bound.get(read, read) in made]
        datasets = [folder / f"{bound.get(read, read)}.h5" for read in reads]
        files = Files(given | {"datasets": datasets})
        params = SimpleNamespace(
            options=entry,
            reads=reads,
            sites=entry.get("sites") or [entry.get("site")],
            taps={site: list(tap) for site, tap in taps_at(given["checkpoint"]).items()},
            threads=torch.get_num_threads(),
        )
        found = compute(function, SimpleNamespace(input=files, params=params))
        write_dataset(found, folder / f"{statistic}.h5")
        made[statistic] = read_dataset(folder / f"{statistic}.h5")
    return made
