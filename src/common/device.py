"""Which device to compute on, and in which precision."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Literal

import torch

from src.common.errors import UserError

Precision = Literal["float32", "bfloat16"]

torch.backends.cudnn.allow_tf32 = False  # on GPUs float32 is to mean float32, as it does in products
torch.backends.cudnn.deterministic = True


def best() -> torch.device:
    """A GPU where there is one, else the CPU; of several processes on one machine each has a GPU of its own.

    Raises UserError where there are fewer.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= there:
        raise UserError(f"launcher: process {number + 1} of this machine finds {there} GPUs; start no more processes than that")
    return torch.device("cuda", number)


def processor() -> str:
    """The CPU's name, as Linux tells it; elsewhere its kind."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def name(device: torch.device) -> str:
    """Of a GPU its model, since others round otherwise; "cpu" of all CPUs."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def precision(asked: Literal["auto", "float32", "bfloat16"], device: torch.device) -> Precision:
    """What is asked for, or for "auto" bfloat16 where `device` is known to be faster in it, else float32.

    These are x86 CPUs with AMX or AVX-512 BF16 (AMD's from Zen 4 on) and, not measured, NVIDIA GPUs from Ampere on.
    """
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if any(map(torch.cpu.get_capabilities().get, ("amx_bf16", "avx512_bf16"))) else "float32"
