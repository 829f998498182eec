"""Which device to compute on, and in which precision."""

from __future__ import annotations

import os
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]


def best() -> torch.device:
    """A GPU where there is one, else the CPU; of several processes on one machine each has a GPU of its own."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else torch.device("cpu")


def precision(asked: Literal["auto", "float32", "bfloat16"], device: torch.device) -> Precision:
    """What is asked for, or for "auto" bfloat16 where `device` is known to be faster in it, else float32.

    These are x86 CPUs with AMX or AVX-512 BF16 (AMD's from Zen 4 on) and, not measured, NVIDIA GPUs from Ampere on.
    """
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if any(map(torch.cpu.get_capabilities().get, ("amx_bf16", "avx512_bf16"))) else "float32"
