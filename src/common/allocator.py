"""Keep freed memory for the next step instead of returning it to the kernel: faster, equal bits."""

from __future__ import annotations

import ctypes
import os
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h
LARGEST_MMAP_THRESHOLD = 32 * 2**20  # bytes; glibc takes no more


def keep_freed_memory() -> bool:
    """Set glibc's thresholds for this process.

    Every step allocates and frees the same tensors of some megabytes. By default glibc returns
    much of that (mallopt(3): M_TRIM_THRESHOLD, M_MMAP_THRESHOLD), and the kernel clears each page
    when it is touched again. Returns False without glibc, or where MALLOC_* variables decide.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt if sys.platform == "linux" else None
    except (AttributeError, OSError):  # another C library
        mallopt = None
    settings = {
        MMAP_THRESHOLD: LARGEST_MMAP_THRESHOLD,
        TRIM_THRESHOLD: 2**31 - 1,
        TOP_PAD: 64 * 2**20,
    }
    return mallopt is not None and all(mallopt(key, value) for key, value in settings.items())
