"""What each tensor of a model is made of in its checkpoint.

A checkpoint may store a weight under another name than the model's module has: with or without the
base model's prefix, under the name of an older release, or of a tied weight. It may store it in
pieces, such as experts one by one, or several in one. Transformers knows; it is asked here, and
nothing is written anew: what has to be converted is converted when a block's weights are read.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from microtome.models.checkpoint import TensorIndex

if TYPE_CHECKING:
    from torch import Size, Tensor
    from transformers import PreTrainedModel
    from transformers.core_model_loading import WeightConverter


@dataclass(frozen=True)
class Origin:
    """What one tensor of a model is made of.

    Attributes:
        name: the tensor's name in the model; of a tied one, that which has the weight.
        keys: the checkpoint's tensors, in the order in which they are joined.
        patterns: of each of them, the converter's pattern that it matches.
        converter: what makes the tensor of them; None where it is stored as it is.
        first: the name that the converter is called with: it may make several tensors.
    """

    name: str
    keys: tuple[str, ...]
    patterns: tuple[str, ...] = ()
    converter: "WeightConverter | None" = None
    first: str = ""

    def make(self, model: "PreTrainedModel", read: "Callable[[str], Tensor]") -> "Tensor":
        """The tensor.

        Args:
            model: the skeleton, whose config a conversion may ask.
            read: reads a tensor of the checkpoint by its name.
        """
        if self.converter is None:
            return read(self.keys[0])
        return _converted(self, self.converter, model, read)[self.name]


def resolve(model: "PreTrainedModel", index: TensorIndex) -> dict[str, Origin]:
    """Find out what a model's tensors are made of, as transformers does when it loads them.

    Args:
        model: a skeleton.
        index: what `microtome.models.checkpoint.tensor_index` returned.

    Returns:
        The origin of each tensor by its name in the model; tied tensors share one. Tensors that
        the checkpoint lacks, or has in another shape, are absent.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        dot_natural_key,
        rename_source_key,
    )

    state = model.state_dict(keep_vars=True)
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: entry for entry in converters for pattern in entry.source_patterns}
    found: dict[str, Origin] = {}
    pieces: dict[str, list[tuple[str, str]]] = {}
    for key in sorted(index, key=dot_natural_key):
        name, pattern = rename_source_key(
            key, renamings, converters, model.base_model_prefix, state
        )
        if name not in state and key in state:
            name, pattern = rename_source_key(key, [], [], model.base_model_prefix, state)
        if name not in state:
            continue
        if pattern is not None:
            pieces.setdefault(name, []).append((key, pattern))
        elif index[key][1]["shape"] == list(state[name].shape):
            found.setdefault(name, Origin(name, (key,)))
    for first, members in pieces.items():
        keys, patterns = zip(*members, strict=True)
        origin = Origin(first, keys, patterns, by_pattern[patterns[0]], first)
        for name, shape in _shapes(origin, model, index).items():
            if name in state and shape == state[name].shape:
                found[name] = Origin(name, keys, patterns, origin.converter, first)
    tied = model.all_tied_weights_keys
    for source in set(tied.values()):
        group = [source, *(name for name, other in tied.items() if other == source)]
        stored = next((found[name] for name in group if name in found), None)
        if stored is not None:
            found |= {name: found.get(name, stored) for name in group if name in state}
    return found


def missing(model: "PreTrainedModel", origins: Mapping[str, Origin]) -> list[str]:
    """The names of a model's tensors that a checkpoint lacks, sorted.

    A buffer that the skeleton has computed is not missing.
    """
    tensors = model.state_dict().items()
    return sorted(name for name, tensor in tensors if tensor.is_meta and name not in origins)


def _shapes(origin: Origin, model: "PreTrainedModel", index: TensorIndex) -> "dict[str, Size]":
    """The shapes of what a converter makes; none where its pieces do not fit together."""

    import torch

    def outline(key: str) -> "Tensor":
        return torch.empty(index[key][1]["shape"], device="meta")

    assert origin.converter is not None  # nothing is joined without one
    try:
        made = _converted(origin, origin.converter, model, outline)
        return {name: tensor.shape for name, tensor in made.items()}
    except Exception:  # whatever an operation says of shapes that it cannot join
        return {}


def _converted(
    origin: Origin,
    converter: "WeightConverter",
    model: "PreTrainedModel",
    read: "Callable[[str], Tensor]",
) -> "dict[str, Tensor]":
    """All that a converter makes of an origin's tensors, by their names in the model."""
    converter = deepcopy(converter)
    for key, pattern in zip(origin.keys, origin.patterns, strict=True):
        # It takes tensors, too, whatever its annotation says.
        converter.add_tensor(origin.first, key, pattern, read(key))  # type: ignore[arg-type]
    made = converter.convert(origin.first, model=model, config=model.config)
    return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}
