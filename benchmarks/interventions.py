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
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benchmarks.process import report, report_arrays
from benchmarks.scratch import MODELS, checkpoint, token_ids
from benchmarks.ways import LENSES, PLACES, calm_mkl

if TYPE_CHECKING:
    import torch


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
        n_texts: how many, of random tokens; the first one is changed, the second gives.
        n_tokens: of each text.
        declaration: as docs/interventions.md says.
    """

    module: ClassVar[str] = __name__
    model: str
    n_texts: int
    n_tokens: int
    declaration: dict[str, Any]

    def ids(self) -> "torch.Tensor":
        """The token ids, (text, position)."""
        import torch

        return torch.from_numpy(token_ids("", self.n_texts, self.n_tokens))

    def cases(self) -> Iterator[Case]:
        """The cases, in the outcome's order."""
        shape, _ = MODELS[self.model]
        each = self.declaration["each"]
        last = self.n_tokens - 1 if self.declaration.get("tokens") == "last" else None
        for layer in range(shape["n_layer"]):
            for position in range(self.n_tokens) if "position" in each else [last]:
                for head in range(shape["n_head"]) if "head" in each else [None]:
                    yield Case(layer, position, head)

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
    """Run all cases in one sweep."""
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401
    from transformers import AutoTokenizer

    from microtome.interventions.declaration import declared
    from microtome.interventions.run import intervene
    from microtome.models.architectures import taps_of
    from microtome.models.checkpoint import read_json

    imported = time.perf_counter()
    folder, ids = checkpoint(task.model), task.ids().numpy()
    found = intervene(
        folder,
        {"sequence": np.repeat(np.arange(task.n_texts), task.n_tokens), "token_id": ids.ravel()},
        declared(task.declaration),
        taps=taps_of(read_json(folder / "config.json")),
        tokenizer=AutoTokenizer.from_pretrained(folder) if task.target else None,
    )
    report(imported)
    report_arrays(name, [("log_probabilities", found["log_probabilities"].values)])


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
    d_head = model.config.n_embd // model.config.n_head

    def hook(layer: int, function: "Callable[[torch.Tensor], object]") -> "torch.utils.hooks.Any":
        module = model.transformer.h[layer].get_submodule(path)
        if side == "output":
            return module.register_forward_hook(
                lambda module, args, output: function(
                    output[0] if isinstance(output, tuple) else output
                )
            )
        return module.register_forward_pre_hook(lambda module, args: function(args[0]))

    def predict(ids: "torch.Tensor") -> "torch.Tensor":
        found = model(ids, use_cache=False).logits[0, -1].log_softmax(-1)
        return found if token is None else found[token]

    rows = []
    with torch.no_grad():
        receiver, *givers = task.ids().split(1)
        given = {}
        for giver in givers:
            handles = [
                hook(layer, lambda values, layer=layer: given.update({layer: values}))
                for layer in range(model.config.n_layer)
            ]
            predict(giver)
            for handle in handles:
                handle.remove()

        def change(values: "torch.Tensor", case: Case) -> None:
            if case.layer in given:
                values[:, case.tokens] = given[case.layer][:, case.tokens]
            else:
                start = case.head * d_head
                values[..., start : start + d_head] = 0

        for case in task.cases():
            handle = hook(case.layer, lambda values, case=case: change(values, case))
            rows.append(predict(receiver))
            handle.remove()
    found = torch.stack(rows)
    report(imported)
    report_arrays(name, [("log_probabilities", found.numpy())])


def transformer_lens(name: str, task: Task) -> None:
    """Run TransformerLens once for each case: with its patching, or with its hooks elsewhere."""
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
    site = task.declaration["site"]

    def predicted(logits: "torch.Tensor") -> "torch.Tensor":
        return logits[0, -1].log_softmax(-1)[token]

    def change(
        values: "torch.Tensor", hook: object, case: Case, given: "torch.Tensor | None"
    ) -> "torch.Tensor":
        if given is None:
            values[:, :, case.head] = 0
        else:
            values[:, case.tokens] = given[:, case.tokens]
        return values

    with torch.no_grad():
        receiver, *givers = task.ids().split(1)
        cache = {}
        for giver in givers:
            _, cache = model.run_with_cache(
                giver, names_filter=lambda name: name.endswith(LENSES[site]), return_type=None
            )
        if task.declaration["each"] == ["layer", "position"]:
            found = patching.get_act_patch_resid_pre(model, receiver, cache, predicted).flatten()
        else:
            rows = []
            for case in task.cases():
                at = f"blocks.{case.layer}.{LENSES[site]}"
                hook = at, partial(change, case=case, given=cache[at] if givers else None)
                rows.append(predicted(model.run_with_hooks(receiver, fwd_hooks=[hook])))
            found = torch.stack(rows)
    report(imported)
    report_arrays(name, [("log_probabilities", found.numpy())])


WAYS: dict[str, Callable[[str, Task], None]] = {
    way.__name__: way for way in (sweep, hooks, transformer_lens)
}


if __name__ == "__main__":
    WAYS[sys.argv[1]](sys.argv[2], Task.read(sys.argv[3]))
