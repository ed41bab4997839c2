"""The ways to an intervention's outcome, each run in a process of its own.

    python -m benchmarks.interventions WAY NAME TASK

As in `benchmarks.ways`: imports come first, then the clock starts, and `report` stops it when the
last number is there.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks import ways
from benchmarks.process import report, report_arrays
from benchmarks.scratch import MODELS, checkpoint, token_ids
from benchmarks.ways import LENSES, PLACES, calm_mkl

if TYPE_CHECKING:
    import torch
    from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True)
class Case:
    """What is changed in one forward.

    Attributes:
        layer: index of the block.
        position: the token; None for all of them.
        head: the head; None for all of them.
    """

    layer: int
    position: int | None = None
    head: int | None = None

    @property
    def tokens(self) -> slice | int:
        """The token, or all."""
        return slice(None) if self.position is None else self.position


@dataclass(frozen=True)
class Task:
    """What is changed, and what is read of it: of each text's last token, the log-probabilities.

    Attributes:
        model: a checkpoint of the scratch folder.
        table: a token table of the model; the first text is changed, the second gives.
        n_texts: of the table.
        n_tokens: of each text.
        declaration: as docs/interventions.md says.
    """

    MODULE: ClassVar[str] = "benchmarks.interventions"

    model: str
    table: str
    n_texts: int
    n_tokens: int
    declaration: dict[str, Any]

    def ids(self) -> "torch.Tensor":
        """The token ids, (text, position)."""
        import torch

        return torch.from_numpy(token_ids(self.table, self.n_texts, self.n_tokens))

    def cases(self) -> Iterator[Case]:
        """The cases, in the outcome's order."""
        shape, _ = MODELS[self.model]
        each = self.declaration["each"]
        last = self.n_tokens - 1 if self.declaration.get("tokens") == "last" else None
        for layer in range(shape["n_layer"]):
            for position in range(self.n_tokens) if "position" in each else [last]:
                for head in range(shape["n_head"]) if "head" in each else [None]:
                    yield Case(layer, position, head)

    def change(
        self, values: "torch.Tensor", case: Case, given: "torch.Tensor | None" = None
    ) -> "torch.Tensor":
        """Change a site's values as a hook does, in place.

        Args:
            values: (text, position, width), or (text, position, head, width) where heads differ.
            case: which of them.
            given: of a patch, the values of the other text.
        """
        change = self.declaration["change"]
        if change == "zero":
            values[:, :, case.head] = 0
        elif "scale" in change:
            values *= change["scale"]
        else:
            values[:, case.tokens] = given[:, case.tokens]
        return values

    @property
    def target(self) -> str | None:
        """The token whose log-probability is read; None for the whole vocabulary."""
        [target] = self.declaration["read"].get("targets", [None])
        return target

    def argument(self) -> str:
        """The task as an argument of a command."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, argument: str) -> "Task":
        """The task from an argument of a command."""
        return cls(**json.loads(argument))


def sweep(name: str, task: Task) -> None:
    """Run the workflow's own script as Snakemake would: all cases in one sweep."""
    from microtome.interventions.declared import declared

    product = Path("results", "interventions", f"{task.table}.h5")
    read_by_script = ways.Task(task.model, task.table, batch=32, sites=(task.declaration["site"],))
    params = {"declared": vars(declared(task.declaration)), "function": None, "reads": []}
    imported = ways.run_script(
        "intervention.py", read_by_script, [str(product)], key=name, **params
    )
    report(imported)
    from microtome.store.datasets import read_dataset

    found = read_dataset(product)["log_probabilities"]
    report_arrays(name, [("log_probabilities", found.values)])


def hooks(name: str, task: Task) -> None:
    """Run a model of transformers once for each case, with one hook: as a notebook does."""
    import torch
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer

    imported = time.perf_counter()
    calm_mkl()
    folder = checkpoint(task.model)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    token = None
    if task.target:
        [token] = AutoTokenizer.from_pretrained(folder).encode(task.target)
    path, side, _ = PLACES[task.declaration["site"]]
    given: dict[int, torch.Tensor] = {}

    def hooked(layer: int, function: "Callable[[torch.Tensor], object]") -> "RemovableHandle":
        module = model.transformer.h[layer].get_submodule(path)

        def hook(module: object, args: tuple, output: "torch.Tensor | tuple | None" = None) -> None:
            value = args if output is None else output
            function(value[0] if isinstance(value, tuple) else value)

        if side == "input":
            return module.register_forward_pre_hook(hook)
        return module.register_forward_hook(hook)

    def change(case: Case, values: "torch.Tensor") -> None:
        if case.head is not None:
            values = values.unflatten(-1, (model.config.n_head, -1))
        task.change(values, case, given.get(case.layer))

    def predict(ids: "torch.Tensor") -> "torch.Tensor":
        found = model(ids, use_cache=False).logits[0, -1].log_softmax(-1)
        return found if token is None else found[token]

    rows = []
    with torch.no_grad():
        changed, *givers = task.ids().split(1)
        for giver in givers:
            layers = range(model.config.n_layer)
            handles = [hooked(layer, partial(given.setdefault, layer)) for layer in layers]
            predict(giver)
            for handle in handles:
                handle.remove()
        for case in task.cases():
            handle = hooked(case.layer, partial(change, case))
            rows.append(predict(changed))
            handle.remove()
    found = torch.stack(rows)
    report(imported)
    report_arrays(name, [("log_probabilities", found.numpy())])


def transformer_lens(name: str, task: Task) -> None:
    """Run TransformerLens once for each case: its `patching` where it has what is asked for."""
    import torch
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401
    from transformer_lens import patching
    from transformer_lens.model_bridge import TransformerBridge

    imported = time.perf_counter()
    model = TransformerBridge.boot_transformers(
        str(checkpoint(task.model)), device="cpu", dtype=torch.float32
    )
    model.eval()
    token = model.to_single_token(task.target) if task.target else slice(None)
    place = LENSES[task.declaration["site"]]

    def predicted(logits: "torch.Tensor") -> "torch.Tensor":
        return logits[0, -1].log_softmax(-1)[token]

    def change(
        values: "torch.Tensor", hook: object, case: Case, given: "torch.Tensor | None"
    ) -> "torch.Tensor":
        return task.change(values, case, given)

    with torch.no_grad():
        changed, *givers = task.ids().split(1)
        cache = {}
        for giver in givers:
            _, cache = model.run_with_cache(
                giver, names_filter=lambda name: name.endswith(place), return_type=None
            )
        if task.declaration["each"] == ["layer", "position"]:
            found = patching.get_act_patch_resid_pre(model, changed, cache, predicted)
        else:
            rows = []
            for case in task.cases():
                at = f"blocks.{case.layer}.{place}"
                hook = at, partial(change, case=case, given=cache[at] if givers else None)
                rows.append(predicted(model.run_with_hooks(changed, fwd_hooks=[hook])))
            found = torch.stack(rows)
    report(imported)
    report_arrays(name, [("log_probabilities", found.numpy())])


WAYS: dict[str, Callable[[str, Task], None]] = {
    way.__name__: way for way in (sweep, hooks, transformer_lens)
}


if __name__ == "__main__":
    WAYS[sys.argv[1]](sys.argv[2], Task.read(sys.argv[3]))
