"""Keep freed memory for the next step, which saves time, and return it when work is done."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

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
    mallopt = _glibc("mallopt")
    settings = {
        MMAP_THRESHOLD: LARGEST_MMAP_THRESHOLD,
        TRIM_THRESHOLD: 2**31 - 1,
        TOP_PAD: 64 * 2**20,
    }
    return mallopt is not None and all(mallopt(key, value) for key, value in settings.items())


def return_freed_memory() -> None:
    """Return freed memory to the kernel (malloc_trim(3)), if there is glibc.

    Each thread has memory of its own. What ended threads have freed, others cannot use.
    """
    if trim := _glibc("malloc_trim"):
        trim(0)


def _glibc(function: str) -> Callable[..., int] | None:
    """A function of glibc; None elsewhere."""
    try:
        return getattr(ctypes.CDLL(None), function) if sys.platform == "linux" else None
    except (AttributeError, OSError):
        return None
