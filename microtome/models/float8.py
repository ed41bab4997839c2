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
#: The numbers that its 256 bytes are: a sign, four bits of exponent, three of mantissa. Looking
#: them up takes a tenth of the time of torch's conversion.
_CODES = np.arange(256)
_VALUES = np.where(
    _CODES >> 3 & 15,
    (1 + (_CODES & 7) / 8) * 2.0 ** ((_CODES >> 3 & 15) - 7),
    (_CODES & 7) * 2.0**-9,
)
_VALUES = np.where(_CODES & 127 == 127, np.nan, _VALUES).astype(np.float32)
_VALUES[128:] *= -1
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
    of, scales = index.get(scale_of(key), (file, {"dtype": "missing", "shape": []}))
    found = [length for length in scales["shape"] if block or length > 1]
    shape: list[int] = [1, *weight["shape"]]
    *leading, rows, columns = shape
    wanted = [*leading[1:], -(-rows // block[0]), -(-columns // block[1])] if block else []
    if scales["dtype"] not in SCALES or found != wanted:
        raise MicrotomeError(
            f"{of}: {scale_of(key)!r} is {scales['dtype']} {scales['shape']}, where the float8 "
            f"weight wants floats {wanted}; use a copy of the model in bfloat16, float16 or float32"
        )


def scaled(
    stored: np.ndarray,
    scales: np.ndarray,
    block: tuple[int, int] | None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """A float8 weight with its scales applied, one row of blocks after another.

    Args:
        stored: its bytes, (…, row, column).
        scales: (…, row of blocks, column of blocks), or a single one.
        block: what `block_of` returned.
        out: where the result is written, float32; new memory by default.
    """
    out = np.empty(stored.shape, np.float32) if out is None else out
    if block is None:
        return np.multiply(_VALUES.take(stored), scales.reshape(()), out=out)
    rows, columns = stored.shape[-2:]
    for i, start in enumerate(range(0, rows, block[0])):
        part = (..., slice(start, start + block[0]), slice(None))
        factors = scales[..., i : i + 1, :].repeat(block[1], -1)[..., :columns]
        np.multiply(_VALUES.take(stored[part]), factors, out=out[part])
    return out
