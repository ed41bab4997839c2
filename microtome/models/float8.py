"""Block-wise float8: weights of one byte, and a scale for each block of them.

As DeepSeek-V3 and Qwen3-FP8 are published: beside a matrix `weight` in F8_E4M3 lies
`weight_scale_inv`, one number for each block of (usually) 128 × 128, which the block's numbers are
multiplied with. A release with one scale for a whole tensor is read the same way.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from microtome.errors import MicrotomeError

if TYPE_CHECKING:
    from microtome.models.checkpoint import TensorIndex

#: The dtype's name in safetensors.
FLOAT8 = "F8_E4M3"
#: What scales may be stored in.
SCALES = {"F32", "F16", "BF16"}


def is_float8(config: Mapping[str, Any]) -> bool:
    """Whether the content of a config.json says that the weights are of this kind."""
    found = config.get("quantization_config")
    if not isinstance(found, Mapping) or found.get("quant_method") != "fp8":
        return False
    size = found.get("weight_block_size")
    return size is None or (
        isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)
    )


def scale_of(key: str) -> str:
    """The name of a weight's scales."""
    return f"{key}_scale_inv"


def block_of(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns of the blocks that have a scale each; None if a tensor has but one.

    Args:
        config: the content of config.json.
    """
    size = (config.get("quantization_config") or {}).get("weight_block_size")
    return None if size is None else (size[0], size[1])


def check_scales(index: "TensorIndex", key: str, block: tuple[int, int] | None) -> None:
    """Raise a MicrotomeError where a float8 weight has no scales, or others than its blocks want.

    Args:
        index: what `microtome.models.checkpoint.tensor_index` returned.
        key: the weight's name.
        block: what `block_of` returned.
    """
    file, weight = index[key]
    *leading, rows, columns = weight["shape"] if len(weight["shape"]) > 1 else (1, *weight["shape"])
    of, scales = index.get(scale_of(key), (file, {"dtype": "missing", "shape": []}))
    if block is None:
        wanted, found = [], [length for length in scales["shape"] if length > 1]
    else:
        wanted = [*leading, -(-rows // block[0]), -(-columns // block[1])]
        found = scales["shape"]
    if scales["dtype"] not in SCALES or found != wanted:
        raise MicrotomeError(
            f"{of}: {scale_of(key)!r} is {scales['dtype']} {scales['shape']}, where the float8 "
            f"weight wants floats {wanted}; use a copy of the model in bfloat16, float16 or float32"
        )


def scaled(stored: np.ndarray, scales: np.ndarray, block: tuple[int, int] | None) -> np.ndarray:
    """A float8 matrix with its scales applied, float32; see `microtome.models.weights` for torch.

    Args:
        stored: its bytes, (row, column).
        scales: (row of blocks, column of blocks), or a single one.
        block: what `block_of` returned.
    """
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    value = np.where(
        exponent, (1 + mantissa / 8) * 2.0 ** (exponent - 7), mantissa * 2.0**-9
    ) * np.where(code >> 7, -1, 1)
    value[code & 127 == 127] = np.nan
    if block is None:
        factors = scales.reshape(())
    else:
        rows, columns = stored.shape
        factors = scales.repeat(block[0], 0).repeat(block[1], 1)[:rows, :columns]
    return value.astype(np.float32)[stored] * factors
