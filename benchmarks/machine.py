"""What a benchmark was run on and with."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path

import torch


def describe(*packages: str) -> dict:
    """Processor, cores, memory, versions of Python and of `packages`, and the day."""
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "machine": {
            "processor": names[0] if names else platform.processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "bfloat16": [name for name in ("amx_bf16", "avx512_bf16") if torch.cpu.get_capabilities().get(name)],
        },
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in packages},
        "date": datetime.date.today().isoformat(),
    }
