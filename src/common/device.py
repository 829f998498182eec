"""Which device to compute on, and in which precision."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Literal

import torch

from .errors import UserError

Precision = Literal["float32", "bfloat16"]

torch.backends.cudnn.allow_tf32 = False  # float32 means float32 on GPUs too, as it does in products
torch.backends.cudnn.deterministic = True


def best() -> torch.device:
    """A GPU if there is one, else the CPU. Each process of a machine gets a GPU of its own.

    Raises UserError if there are fewer GPUs than processes.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= count:
        raise UserError(
            f"launcher: process {number + 1} of this machine finds {count} GPUs; "
            f"start no more processes than that"
        )
    return torch.device("cuda", number)


def processor() -> str:
    """The CPU's name on Linux; elsewhere its kind."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def name(device: torch.device) -> str:
    """Device name for cache keys. GPU models differ in rounding; CPUs count as one."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def precision(wanted: Literal["auto", "float32", "bfloat16"], device: torch.device) -> Precision:
    """`wanted`; for "auto" bfloat16 where `device` is known to be faster in it, else float32.

    Known are x86 CPUs with AMX or AVX-512 BF16 (AMD's from Zen 4 on) and, not measured, NVIDIA
    GPUs from Ampere on.
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        fast = any(map(capabilities.get, ("amx_bf16", "avx512_bf16")))
    return "bfloat16" if fast else "float32"
