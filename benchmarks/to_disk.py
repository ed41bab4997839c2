"""Ways to hidden states on disk, each run in a process of its own.

    python -m benchmarks.to_disk WAY NAME TASK

As in `benchmarks.ways`: imports come first, then the clock starts, and `report` stops it when the
last number is on disk. What is asked for is what blocks of a Llama return (`resid_post`).
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from benchmarks import ways
from benchmarks.process import report, report_arrays
from benchmarks.scratch import checkpoint, token_ids

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel

#: Where the files go; a row removes it before each run.
FOLDER = Path("results", "activations", "peers")
#: What accelerate may keep of the weights in memory: less than the embedding has.
KEPT_IN_MEMORY = "100MB"


class Task(ways.Task):
    """What is to be written: of `benchmarks.ways`, with blocks' outputs as the only site."""

    MODULE: ClassVar[str] = "benchmarks.to_disk"


def hooks_to_h5py(name: str, task: Task) -> None:
    """A plain loop over batches, with a hook at each block that writes to an HDF5 file."""
    import h5py  # noqa: F401
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401
    from transformers import AutoModelForCausalLM

    imported = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(checkpoint(task.model), dtype=torch.float32)
    write(model, task)
    report(imported, bytes=flush(FOLDER))
    report_arrays(name, written(task))


def accelerate_to_h5py(name: str, task: Task) -> None:
    """The same loop over a model whose blocks accelerate keeps on disk between their turns."""
    import accelerate  # noqa: F401
    import h5py  # noqa: F401
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401
    from transformers import AutoModelForCausalLM

    offloaded = Path("offloaded")
    shutil.rmtree(offloaded, ignore_errors=True)
    imported = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint(task.model),
        dtype=torch.float32,
        device_map="auto",
        max_memory={"cpu": KEPT_IN_MEMORY},
        offload_folder=str(offloaded),
    )
    write(model, task)
    report(imported, bytes=flush(FOLDER))
    report_arrays(name, written(task))


def saelens(name: str, task: Task) -> None:
    """SAELens' cache runner, which writes one layer to a data set of arrow files."""
    import numpy as np
    import transformers.models.llama.modeling_llama  # noqa: F401
    from datasets import Dataset
    from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig

    (layer,) = task.layers
    hook = f"model.layers.{layer}"
    imported = time.perf_counter()
    ids = token_ids(task.table, task.n_texts, task.n_tokens)
    sequences = Dataset.from_dict({"input_ids": ids})
    config = CacheActivationsRunnerConfig(
        dataset_path="sequences",
        model_name=str(checkpoint(task.model)),
        model_class_name="AutoModelForCausalLM",
        model_batch_size=task.batch,
        hook_name=hook,
        d_in=576,
        training_tokens=ids.size,
        context_size=task.n_tokens,
        new_cached_activations_path=str(FOLDER),
        shuffle=False,
        device="cpu",
        buffer_size_gb=0.01,
        prepend_bos=False,
        streaming=False,
    )
    cached = CacheActivationsRunner(config, sequences).run()
    report(imported, bytes=flush(FOLDER))
    columns = cached.with_format("numpy")
    report_arrays(name, [(f"{layer} resid_post", np.concatenate(list(columns[hook])))])


def write(model: "PreTrainedModel", task: Task) -> None:
    """Run all batches, and write what the task's blocks return to a file each."""
    import h5py
    import torch

    class Enough(Exception):
        pass

    FOLDER.mkdir(parents=True)
    shape = (task.n_texts * task.n_tokens, model.config.hidden_size)
    files = {layer: h5py.File(FOLDER / f"{layer}.h5", "w") for layer in task.layers}
    place = slice(0, 0)

    def keep(layer: int, output: "torch.Tensor | tuple[torch.Tensor]") -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        files[layer]["resid_post"][place] = hidden.flatten(0, 1).numpy()
        if layer == task.layers[-1]:
            raise Enough

    for layer, file in files.items():
        file.create_dataset("resid_post", shape, "float32")
        model.model.layers[layer].register_forward_hook(
            lambda module, args, output, layer=layer: keep(layer, output)
        )
    with torch.no_grad():
        for ids in task.batches():
            place = slice(place.stop, place.stop + ids.numel())
            with suppress(Enough):
                model(ids, use_cache=False)
    for file in files.values():
        file.close()


def flush(folder: Path) -> int:
    """Wait until a folder's files are on disk; returns their bytes."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    return sum(file.stat().st_size for file in files)


def written(task: Task) -> "Iterator[tuple[str, np.ndarray]]":
    """What the files hold, by layer and site as the sweep's arrays are."""
    import h5py

    for layer in task.layers:
        with h5py.File(FOLDER / f"{layer}.h5") as file:
            yield f"{layer} resid_post", file["resid_post"][...]


WAYS: dict[str, Callable[[str, Task], None]] = {
    way.__name__: way for way in (ways.sweep, hooks_to_h5py, accelerate_to_h5py, saelens)
}


if __name__ == "__main__":
    WAYS[sys.argv[1]](sys.argv[2], Task.read(sys.argv[3]))
