"""Freed memory is kept for the next step instead of being handed back to the kernel, page by page: faster, and the same bits."""

from __future__ import annotations

import ctypes
import os
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h
LARGEST_MMAP_THRESHOLD = 32 * 2**20  # bytes; glibc takes no more


def keep_freed_memory() -> bool:
    """Tell glibc so, for this process; False where there is no glibc, or where MALLOC_* variables settle it already.

    Every step allocates and frees the same tensors of some megabytes. By default glibc hands much of that back (mallopt(3):
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD), and the kernel clears each page at its first touch when it is taken again.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt if sys.platform == "linux" else None
    except (AttributeError, OSError):  # another C library
        mallopt = None
    settings = {MMAP_THRESHOLD: LARGEST_MMAP_THRESHOLD, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 64 * 2**20}
    return mallopt is not None and all(mallopt(option, value) for option, value in settings.items())
