"""bfloat16, the upper half of a float32, in layer files. Neither HDF5 nor numpy has it.

The files define it as a float of their own, which HDF5 converts to float32 number by number. Here
the bits are read and shifted, which is many times faster (docs/scaling.md).
"""

from typing import Any

import h5py
import numpy as np
from h5py._hl.selections import select


def _bfloat16() -> h5py.Datatype:
    """Define the type for HDF5; h5py reads it as float32."""
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)  # bit of the sign; first bit and size of exponent and mantissa
    kind.set_size(2)
    return h5py.Datatype(kind)


BFLOAT16 = _bfloat16()
#: Numbers that are shifted at a time: what a processor's cache holds.
_BLOCK = 1 << 16


def is_bfloat16(dataset: h5py.Dataset) -> bool:
    """Whether the values in the file are bfloat16."""
    return dataset.id.get_type() == BFLOAT16.id


def read_values(dataset: h5py.Dataset, key: Any = ...) -> np.ndarray:
    """Read what `dataset[key]` does, bfloat16 without HDF5's conversion.

    The values are the same, bit for bit, but for NaN: HDF5 sets all bits of its mantissa, and here
    they are kept.
    """
    if not is_bfloat16(dataset):
        return dataset[key]
    selection = select(dataset.shape, key)
    words = np.empty(selection.array_shape, np.uint32)
    flat = words.reshape(-1)
    # Read to the end of where the values go: no number is written over before it is shifted.
    bits = flat.view(np.uint16)[flat.size :]
    memory = h5py.h5s.create_simple(selection.mshape)
    dataset.id.read(memory, selection.id, bits, BFLOAT16.id)
    for start in range(0, flat.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        np.left_shift(bits[block], 16, out=flat[block], dtype=np.uint32)
    return words.view(np.float32)[()]


def rounded_bits(values: np.ndarray) -> np.ndarray:
    """The bits of the bfloat16 nearest to each float32; of two, that which is even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = bits >> 16  # in place from here on: new arrays take most of the time
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    return rounded.astype(np.uint16)
