"""Tensors in, the memory they lie in taken in huge pages from its first touch on.

The first touch of a page costs a fault, and 4 KiB at a time the faults of a load take more CPU time
than its decryption. Tensors begin and end inside huge pages of 2 MiB: the advice covers all of
these pages, and so their neighbours in this process's memory.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable

import torch

_HUGE = 2 * 1024 * 1024
_COLLAPSE = 25
"""MADV_COLLAPSE of Linux 6.1, which Python has no name for."""


def take_huge_pages(tensors: Iterable[torch.Tensor]) -> None:
    """Advise the kernel, before they are written, to back tensors in main memory so (madvise(2)).

    The allocator has written its own words in front of a tensor, so the first and the last huge
    page begin as small ones, which no advice about the next touch changes: these are collapsed. It
    is advice: a kernel without huge pages answers with an error and gives small ones.
    """
    libc = ctypes.CDLL(None)
    ends: set[int] = set()
    for tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if tensor.device.type != "cpu" or size < _HUGE or not tensor.is_contiguous():
            continue
        first = tensor.data_ptr() // _HUGE * _HUGE
        end = -(-(tensor.data_ptr() + size) // _HUGE) * _HUGE
        ends |= {first, end - _HUGE}
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), mmap.MADV_HUGEPAGE)
    for at in ends:  # of two tensors side by side often the same
        libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(_HUGE), _COLLAPSE)
