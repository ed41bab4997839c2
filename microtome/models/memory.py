"""What the C library is asked to do with memory."""

import ctypes
import mmap
from contextlib import suppress

from torch import Tensor

_LIBC = ctypes.CDLL(None)


def prefetch(weight: Tensor) -> None:
    """Have the system read a mapped tensor's pages from disk, if they are not in memory yet.

    They go into the page cache, not into this process: what is resident stays one block.
    """
    start = weight.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
    size = weight.data_ptr() + weight.nbytes - start
    _LIBC.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_WILLNEED)


def trim_heap() -> None:
    """Return freed memory to the system, which otherwise keeps growing by what lies between uses.

    Arrays of a few MiB that one thread makes and another frees leave gaps in glibc's heap; without
    this the peak of a long sweep was half as high again.
    """
    with suppress(AttributeError):  # other C libraries have no such function
        _LIBC.malloc_trim(0)
