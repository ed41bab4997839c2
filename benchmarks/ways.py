"""The ways to the same numbers, each run in a process of its own.

    python -m benchmarks.ways WAY NAME TASK

What a way imports comes first; then its clock starts, and `report` stops it when the last number
is there. The arrays are read and digested after that. Peers' own environments lack Microtome, so
nothing of it is imported but where it is measured.
"""

import json
import os
import runpy
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, ClassVar

from benchmarks.process import REPOSITORY, report, report_arrays
from benchmarks.scratch import checkpoint, manifest, token_ids, tokens

if TYPE_CHECKING:
    import numpy as np
    import torch

#: Where GPT-2's sites are inside a block: a module, a side of it, a third of what it returns.
#: In the order of computation, as nnsight wants them.
PLACES = {
    "resid_pre": ("", "input", None),
    "q": ("attn.c_attn", "output", 0),
    "k": ("attn.c_attn", "output", 1),
    "v": ("attn.c_attn", "output", 2),
    "z": ("attn.c_proj", "input", None),
    "attn_out": ("attn", "output", None),
    "resid_mid": ("ln_2", "input", None),
    "ln2_out": ("ln_2", "output", None),
    "pre": ("mlp.c_fc", "output", None),
    "post": ("mlp.c_proj", "input", None),
    "mlp_out": ("mlp", "output", None),
    "resid_post": ("", "output", None),
}
#: The same, as TransformerLens names them.
LENSES = {
    **{site: f"attn.hook_{site}" for site in ("q", "k", "v", "z")},
    **{site: f"mlp.hook_{site}" for site in ("pre", "post")},
    **{s: f"hook_{s}" for s in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")},
    "ln2_out": "ln2.hook_out",
}
#: How the histograms are made.
EDGES = {"n_edges": 201, "limit": 3.0}


@dataclass(frozen=True)
class Task:
    """What is to be extracted.

    Attributes:
        model: a checkpoint of the scratch folder.
        table: a token table of the model.
        n_texts: of the table.
        n_tokens: of each text.
        batch: texts per batch.
        sites: names of `PLACES`.
        layers: indices of blocks.
        last: whether each text's last token alone is kept.
        bins: whether the product is histograms of the values.
        store: dtype and compression of the files.
    """

    MODULE: ClassVar[str] = "benchmarks.ways"

    model: str
    table: str
    n_texts: int = 1
    n_tokens: int = 1
    batch: int = 1
    sites: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    last: bool = False
    bins: bool = False
    store: tuple[str, str] = ("float32", "none")

    def batches(self) -> "Iterator[torch.Tensor]":
        """The token ids, (text, position), batch by batch."""
        import torch

        ids = token_ids(self.table, self.n_texts, self.n_tokens)
        yield from torch.from_numpy(ids).split(self.batch)

    def argument(self) -> str:
        """The task as an argument of a command."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, argument: str) -> "Task":
        """The task from an argument of a command."""
        values = json.loads(argument)
        return cls(**values | {key: tuple(values[key]) for key in ("sites", "layers", "store")})


class Named(list):
    """Files as a Snakemake job knows them: by number and by name."""

    def __init__(self, **files: str | list[str]) -> None:
        """List the files, and name them."""
        for named in files.values():
            self.extend([named] if isinstance(named, str) else named)
        self.__dict__.update(files)

    def get(self, name: str) -> str | list[str] | None:
        """The files of a name, if there are any."""
        return self.__dict__.get(name)


def sweep(name: str, task: Task) -> None:
    """Run the workflow's own script as Snakemake would: one file per layer, flushed to disk."""
    folder = Path("results", "activations", task.model, task.table)
    paths = {layer: folder / f"layer-{layer:02}.h5" for layer in task.layers}
    outputs = Named(layers=[str(path) for path in paths.values()], resid_out=[])
    imported = run_script("activations.py", task, outputs, final_sites=[])
    size = sum(path.stat().st_size for path in paths.values())
    report(imported, bytes=size)
    import h5py
    import hdf5plugin  # noqa: F401

    def stored() -> "Iterator[tuple[str, np.ndarray]]":
        for layer, path in paths.items():
            with h5py.File(path) as file:
                for site in task.sites:
                    yield f"{layer} {site}", file[site][...]

    report_arrays(name, stored())


def histograms(name: str, task: Task) -> None:
    """Make a statistic of the corpus study as the workflow does: histograms inside the sweep."""
    product = Path("results", "statistics", "histograms.h5")
    histograms = {
        "function": "studies/corpus/statistics.py:histograms",
        "sites": list(task.sites),
        "layers": list(task.layers),
        "reads": {},
        "options": {"sites": list(task.sites), **EDGES},
    }
    asked = {"layers": list(task.layers), "lens": False, "states": False}
    imported = run_script("streams.py", task, [str(product)], products=[histograms], **asked)
    report(imported, bytes=product.stat().st_size)
    from microtome.store.datasets import read_dataset

    density = read_dataset(product)["density"]
    report_arrays(
        name,
        (
            (f"{layer} {site}", density.sel(layer=layer, site=site).values)
            for layer in task.layers
            for site in task.sites
        ),
    )


def run_script(script: str, task: Task, outputs: list[str], **params: object) -> float:
    """Run a script as a Snakemake job.

    Returns:
        The time when everything was imported.
    """
    import torch

    path = str(REPOSITORY / "scripts" / script)
    runpy.run_path(path)  # its imports alone: the rest runs as __main__ only
    # What any way would import on first use.
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401

    from microtome.models.anatomy import find_sites
    from microtome.models.taps import to_plain
    from microtome.workflow.load import load

    for product in params.get("products", ()):
        load(product["function"])
    taps = to_plain(find_sites(checkpoint(task.model)).taps)  # which a workflow finds once
    imported = time.perf_counter()
    job = SimpleNamespace(
        input=Named(
            manifest=str(manifest(task.model)),
            checkpoint=str(checkpoint(task.model)),
            tokens=str(tokens(task.model, task.table)),
            resid_in=[],
            datasets=[],
        ),
        output=outputs,
        wildcards=SimpleNamespace(),
        log=[f"results/logs/{Path(script).stem}.log"],
        params=SimpleNamespace(
            sites=list(task.sites),
            taps={site: tap for site, tap in taps.items() if site in task.sites},
            batch_tokens=task.batch * task.n_tokens,
            threads=torch.get_num_threads(),
            device="cpu",
            dtype="float32",
            store=dict(zip(("dtype", "compression"), task.store, strict=True)),
            **params,
        ),
        threads=torch.get_num_threads(),
    )
    runpy.run_path(path, init_globals={"snakemake": job}, run_name="__main__")
    return imported


def hooks(name: str, task: Task) -> None:
    """Hook a model of transformers, as a notebook does, and leave it after the last hook."""
    import torch
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401
    from transformers import AutoModelForCausalLM

    imported = time.perf_counter()
    calm_mkl()
    model = AutoModelForCausalLM.from_pretrained(checkpoint(task.model), dtype=torch.float32)
    kept = Kept(task)
    last_layer, last_site = task.layers[-1], task.sites[-1]

    class Enough(Exception):
        pass

    def keep(layer: int, site: str, value: object) -> None:
        kept.add(layer, site, value)
        if (layer, site) == (last_layer, last_site):
            raise Enough

    for layer in task.layers:
        block = model.transformer.h[layer]
        for site in task.sites:
            path, side, _ = PLACES[site]
            module = block.get_submodule(path)
            if side == "output":
                module.register_forward_hook(
                    lambda module, args, output, at=(layer, site): keep(*at, output)
                )
            else:
                module.register_forward_pre_hook(
                    lambda module, args, at=(layer, site): keep(*at, args)
                )
    with torch.no_grad():
        for ids in task.batches():
            with suppress(Enough):
                model(ids, use_cache=False)
    report(imported)
    report_arrays(name, kept.arrays())


def nnsight(name: str, task: Task) -> None:
    """Trace a model of transformers with nnsight, and stop it after the last value."""
    import torch
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401
    from nnsight.modeling.transformers import TransformersModel

    imported = time.perf_counter()
    calm_mkl()
    model = TransformersModel(
        str(checkpoint(task.model)), task="text-generation", dispatch=True, dtype=torch.float32
    )
    kept = Kept(task)
    with torch.no_grad():
        for ids in task.batches():
            values = {}
            with model.trace(ids, use_cache=False) as tracer:
                for layer in task.layers:
                    block = model.transformer.h[layer]
                    for site in task.sites:
                        path, side, _ = PLACES[site]
                        module = block.get(path) if path else block
                        value = module.output if side == "output" else module.input
                        value = value[0] if isinstance(value, tuple) else value
                        values[layer, site] = (value[:, -1:].clone() if task.last else value).save()
                tracer.stop()
            for (layer, site), value in values.items():
                kept.add(layer, site, value)
            del values
    report(imported)
    report_arrays(name, kept.arrays())


def transformer_lens(name: str, task: Task) -> None:
    """Run TransformerLens with a cache of the wanted names, up to the layer after the last."""
    import torch
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401
    from transformer_lens.model_bridge import TransformerBridge

    imported = time.perf_counter()
    model = TransformerBridge.boot_transformers(
        str(checkpoint(task.model)), device="cpu", dtype=torch.float32
    )
    names = {
        f"blocks.{layer}.{LENSES[site]}": (layer, site)
        for layer in task.layers
        for site in task.sites
    }
    kept = Kept(task)
    with torch.no_grad():
        for ids in task.batches():
            _, cache = model.run_with_cache(
                ids,
                names_filter=list(names),
                stop_at_layer=task.layers[-1] + 1,
                return_type=None,
                return_cache_object=False,
                pos_slice=-1 if task.last else None,
            )
            for key, at in names.items():
                kept.values[at].append(cache[key])
            del cache
    report(imported)
    report_arrays(name, kept.arrays())


def bare(name: str, task: Task) -> None:
    """Run the same batches through a model of transformers, without hooks and without its head."""
    import torch
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401
    from transformers import AutoModel

    imported = time.perf_counter()
    model = AutoModel.from_pretrained(checkpoint(task.model), dtype=torch.float32)
    with torch.no_grad():
        for ids in task.batches():
            model(ids, use_cache=False)
    report(imported)
    report_arrays(name, ())


def write(name: str, task: Task) -> None:
    """Write as many bytes as a sweep's values have into as many files, each flushed to disk."""
    import numpy as np

    from benchmarks.scratch import MODELS

    shape, _ = MODELS[task.model]
    widths = (shape["n_embd"] * (4 if site in ("pre", "post") else 1) for site in task.sites)
    n_bytes = 4 * task.n_texts * (1 if task.last else task.n_tokens) * sum(widths)
    block = np.random.default_rng(0).bytes(1 << 22)
    folder = Path("results", "activations", task.model, "bytes")
    folder.mkdir(parents=True)
    imported = time.perf_counter()
    for layer in task.layers:
        with (folder / str(layer)).open("wb", buffering=0) as file:
            for start in range(0, n_bytes, len(block)):
                file.write(block[: n_bytes - start])
            os.fsync(file.fileno())
    report(imported, bytes=n_bytes * len(task.layers))
    report_arrays(name, ())


def calm_mkl() -> None:
    """Make the first call of one of MKL's vector functions with a single number.

    When it comes from two threads, one of them now and then gets low accuracy (MKL 2024.2): half
    of the first GELU, in a few processes of a hundred. The sweep is safe from it, because its own
    first call is with a single token.
    """
    import torch

    torch.tanh(torch.zeros(1))


class Kept:
    """What a peer keeps in memory: of each layer and site, an array per batch."""

    def __init__(self, task: Task) -> None:
        """Keep nothing yet."""
        self.task = task
        self.values = {(layer, site): [] for layer in task.layers for site in task.sites}

    def add(self, layer: int, site: str, value: "torch.Tensor | tuple[torch.Tensor, ...]") -> None:
        """Keep what a module was called with or returned, or the part of it that is the site's."""
        value = value[0] if isinstance(value, tuple) else value
        third = PLACES[site][2]
        if third is not None:
            value = value.chunk(3, dim=-1)[third]
        if self.task.last:
            value = value[:, -1:].clone()
        self.values[layer, site].append(value)

    def arrays(self) -> "Iterator[tuple[str, np.ndarray]]":
        """All of it, by layer and site; histograms where the task wants those."""
        import numpy as np
        import torch

        for (layer, site), batches in self.values.items():
            array = torch.cat(batches).numpy()
            if self.task.bins:
                n_bins, limit = EDGES["n_edges"] - 1, EDGES["limit"]
                array, _ = np.histogram(array.astype(np.float64), n_bins, (-limit, limit))
                width = 2 * limit / n_bins
                array = array / (array.sum() * width)
            yield f"{layer} {site}", array


WAYS: dict[str, Callable[[str, Task], None]] = {
    way.__name__: way
    for way in (
        sweep,
        histograms,
        hooks,
        nnsight,
        transformer_lens,
        bare,
        write,
    )
}


if __name__ == "__main__":
    WAYS[sys.argv[1]](sys.argv[2], Task.read(sys.argv[3]))
