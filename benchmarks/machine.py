"""What a benchmark was run on and with."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata

import torch

from src.common import device


def describe(*packages: str) -> dict:
    """Processor, cores, memory, versions of Python and of `packages`, the day, and the commit that the code is of."""
    def git(*command: str) -> str:
        return subprocess.run(["git", *command], capture_output=True, text=True).stdout.strip()

    code = ("src", "stages", "tools", "tests", "benchmarks/*.py", "app.py", "dvc.yaml", "params.yaml", "constraints.txt")
    changed = "-dirty" if git("status", "--porcelain", "--", *code) else ""
    return {
        "machine": {
            "processor": device.processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "bfloat16": [name for name in ("amx_bf16", "avx512_bf16") if torch.cpu.get_capabilities().get(name)],
        },
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in packages},
        "date": datetime.date.today().isoformat(), "commit": git("rev-parse", "--short=12", "HEAD") + changed,
    }
