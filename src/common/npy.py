"""Headers of .npy files from elsewhere."""

from __future__ import annotations

from typing import IO

import numpy as np


def header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first, and type of the array that follows.

    Raises ValueError for other versions and for headers that cannot be parsed.
    """
    version = np.lib.format.read_magic(file)
    if version != (1, 0):  # headers of later versions can have gigabytes
        raise ValueError(f".npy version {version}, expected (1, 0)")
    try:
        return np.lib.format.read_array_header_1_0(file)
    except (MemoryError, RecursionError):  # of Python's parser, for deeply nested text
        raise ValueError("a header that cannot be parsed") from None
