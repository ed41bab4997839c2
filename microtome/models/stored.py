"""The MLPs of a checkpoint as they are stored: their weights, and their activation function.

Neither torch nor transformers is needed: a tensor is mapped from its safetensors file, and only
what is read of it is loaded.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from microtome.errors import MicrotomeError
from microtome.models.checkpoint import tensor_index
from microtome.models.float8 import FLOAT8, block_of, scale_of, scaled
from microtome.models.taps import Tap

#: How safetensors' floats are mapped. numpy has no bfloat16, the upper half of a float32, and no
#: float8.
_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", FLOAT8: "u1"}
#: Architectures whose projections are stored (in, out); all others store (out, in).
_INPUT_FIRST = ("gpt2",)
#: Activation functions by the names that configs give them. GELU's approximations by tanh differ
#: from it by less than 0.001 and are called GELU too.
_ACTIVATIONS = {
    "gelu": "GELU",
    "gelu_new": "GELU",
    "gelu_fast": "GELU",
    "gelu_pytorch_tanh": "GELU",
    "relu": "ReLU",
    "silu": "SiLU",
    "swish": "SiLU",
}


class StoredMLP:
    """The MLPs of a checkpoint, one per layer, without its model.

    Attributes:
        n_layers: how many there are.
        gated: whether the activation function's output is multiplied with a second projection.
        activation: the activation function, as one would write it: GELU, SiLU.
        projections: the weight matrices by name: W1 and W2; W1 (gate), W1 (up) and W2 if gated.
    """

    def __init__(
        self, checkpoint: str | Path, manifest: Mapping[str, Any], taps: Mapping[str, Tap]
    ) -> None:
        """Find out what the MLPs are made of.

        Args:
            checkpoint: a checkpoint folder as `microtome.models.fetch.fetch` makes it.
            manifest: what `microtome.models.fetch.described` says of it.
            taps: where `pre`, `post` and, if the MLP is gated, `pre_linear` lie.

        Raises:
            MicrotomeError: an architecture that is not known, or a damaged checkpoint.
        """
        checkpoint = Path(checkpoint)
        self.n_layers = manifest["n_layers"]
        self._widths = manifest["d_model"], manifest["d_mlp"]
        self._architecture = manifest["architecture"]
        if not {"pre", "post"} <= taps.keys():
            raise MicrotomeError(
                f"{checkpoint}: the MLP of a {self._architecture!r} model is not of one piece; "
                "take another model"
            )
        self.gated = "pre_linear" in taps
        first = {"W1 (gate)": "pre", "W1 (up)": "pre_linear"} if self.gated else {"W1": "pre"}
        self._taps = taps
        self._sites = first | {"W2": "post"}
        self._paths = {name: taps[site].path for name, site in self._sites.items()}
        self.projections = tuple(self._paths)
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        config |= config.get("text_config") or {}
        keys = ("hidden_activation", "activation_function", "hidden_act", "activation")
        given = next((config[key] for key in keys if config.get(key)), "Activation")
        self.activation = _ACTIVATIONS.get(given, given)
        self._index = tensor_index(checkpoint)
        self._keys = {
            tensor.get("name", key): key
            for key, tensor in manifest["tensors"].items()
            if key in self._index and "converted" not in tensor
        }
        self._scale_block = block_of(config)

    def weight(self, projection: str, layer: int) -> np.ndarray:
        """A projection's weights.

        Args:
            projection: one of `projections`.
            layer: the block's index.

        Returns:
            (d_model, d_mlp) for a W1, (d_mlp, d_model) for W2, whichever way they are stored,
            float32.

        Raises:
            MicrotomeError: a tensor that is missing, or has a dtype or shape without a meaning.
        """
        key = self._key(projection, "weight", layer)
        if key is None:
            raise MicrotomeError(
                f"layer {layer}: the checkpoint has no {self._paths[projection]}.weight; "
                "fetch the model again"
            )
        stored = self._read(key)
        if projection != "W2" and stored.shape[0] > self._widths[1]:  # fused, (out, in)
            stored = stored[self._rows_of(projection)]
        shape = self._widths[::-1] if projection == "W2" else self._widths
        square = shape[0] == shape[1]
        if stored.shape == shape and (not square or self._architecture in _INPUT_FIRST):
            return stored
        if stored.shape == shape[::-1]:
            return stored.T
        raise MicrotomeError(
            f"{key}: shape {stored.shape} where {shape} or its transpose was expected; the "
            "config.json and the weights do not belong together, fetch the model again"
        )

    def bias(self, projection: str, layer: int) -> np.ndarray | None:
        """A projection's biases, (out,), float32, or None where it has none; see `weight`."""
        key = self._key(projection, "bias", layer)
        if key is None:
            return None
        stored = self._read(key)
        return stored if projection == "W2" else stored[self._rows_of(projection)]

    def attributes(self, site: str | None = None) -> dict[str, str | int]:
        """The facts that figures word their labels from, as attributes of a dataset.

        Args:
            site: a site, where the dataset is of a single one.

        Returns:
            `activation_function` and `gated`, 0 or 1. For `pre`, `pre_linear` and `post` also
            `module`, the path in its block of the module that the site is read from, and `side`,
            input or output: the same name is something else where an MLP is not gated.
        """
        facts = {"activation_function": self.activation, "gated": int(self.gated)}
        if site in ("pre", "pre_linear", "post") and site in self._taps:
            facts |= {"module": self._taps[site].path, "side": self._taps[site].side}
        return facts

    def _rows_of(self, projection: str) -> slice:
        """The rows of a fused projection, (out, in), that are one of a W1."""
        start = self._taps[self._sites[projection]].start
        return slice(start, start + self._widths[1])

    def _key(self, projection: str, kind: str, layer: int) -> str | None:
        """The checkpoint's name of a tensor, with or without the base model's prefix."""
        end = re.compile(rf"(?:^|\.){layer}\.{re.escape(self._paths[projection])}\.{kind}$")
        return next((key for name, key in self._keys.items() if end.search(name)), None)

    def _read(self, key: str) -> np.ndarray:
        file, entry = self._index[key]
        if entry["dtype"] not in _DTYPES:
            raise MicrotomeError(
                f"{key}: dtype {entry['dtype']}; use a copy of the model in "
                "float32, float16 or bfloat16"
            )
        # A safetensors file: the header's length in 8 bytes, the header, the tensors.
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            start, _ = json.loads(stream.read(length))[key]["data_offsets"]
        mapped = np.memmap(
            file, _DTYPES[entry["dtype"]], "r", 8 + length + start, tuple(entry["shape"])
        )
        if entry["dtype"] == FLOAT8:
            return scaled(mapped, self._read(scale_of(key)), self._scale_block)
        if entry["dtype"] == "BF16":
            return (mapped.astype(np.uint32) << 16).view(np.float32)
        return mapped.astype(np.float32, copy=False)
