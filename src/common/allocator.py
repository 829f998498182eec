"""Keep freed memory for the next step instead of returning it to the kernel. Saves time."""

from __future__ import annotations

import ctypes
import os
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # from glibc's malloc.h
LARGEST_MMAP_THRESHOLD = 32 * 2**20  # bytes; glibc's maximum


def keep_freed_memory() -> bool:
    """Set glibc's malloc thresholds for this process, so that it keeps freed memory.

    Every step allocates and frees the same tensors, which take some megabytes each. By default
    glibc returns much of that memory to the kernel (mallopt(3): M_TRIM_THRESHOLD,
    M_MMAP_THRESHOLD). The kernel must then clear each page before the next use.

    Returns whether the thresholds are set: False without glibc, or if the environment has
    MALLOC_* variables, which take precedence.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt if sys.platform == "linux" else None
    except (AttributeError, OSError):  # not glibc
        mallopt = None
    settings = {
        MMAP_THRESHOLD: LARGEST_MMAP_THRESHOLD,
        TRIM_THRESHOLD: 2**31 - 1,
        TOP_PAD: 64 * 2**20,
    }
    return mallopt is not None and all(mallopt(key, value) for key, value in settings.items())
