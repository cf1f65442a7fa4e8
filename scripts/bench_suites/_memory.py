"""Memory as a machine that has been up for a while has it."""

from __future__ import annotations

import mmap


def touch(size: int) -> None:
    """Use memory and free it, so that the host backs what the kernel gives out next.

    A virtual machine returns free memory to its host. Asking for it again takes the host longer
    than a load takes, and huge pages are what has been returned.
    """
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for page in range(0, size, mmap.PAGESIZE):
            memory[page] = 1
