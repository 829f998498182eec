"""Choose the device and the precision to compute with."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Literal

import torch

from .errors import UserError

Precision = Literal["float32", "bfloat16"]

# By default cuDNN rounds float32 convolutions to TF32. Matrix products are not rounded like that.
torch.backends.cudnn.allow_tf32 = False
torch.backends.cudnn.deterministic = True


def best() -> torch.device:
    """Return a GPU if there is one, else the CPU. Each process of a machine gets its own GPU.

    Raises UserError if there are fewer GPUs than processes.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= count:
        raise UserError(
            f"launcher: process {number + 1} of this machine finds {count} GPUs; "
            f"start no more processes than there are GPUs"
        )
    return torch.device("cuda", number)


def processor() -> str:
    """The CPU's model name on Linux; elsewhere the machine type, such as arm64."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def name(device: torch.device) -> str:
    """Device name for cache keys. GPU models differ in rounding; CPUs count as one."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def precision(wanted: Literal["auto", "float32", "bfloat16"], device: torch.device) -> Precision:
    """Return `wanted`, or for "auto" bfloat16 where it is faster, else float32.

    bfloat16 is faster on x86 CPUs with AMX or AVX-512 BF16 (AMD: Zen 4 and later), and on NVIDIA
    GPUs from Ampere on, where large networks gain and the default one does not (H200).
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        fast = any(map(capabilities.get, ("amx_bf16", "avx512_bf16")))
    return "bfloat16" if fast else "float32"
