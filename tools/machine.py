"""Describe the machine, versions and commit of a benchmark."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata

import torch

from src.common import device

CODE = (
    "src",
    "stages",
    "tools",
    "tests",
    "benchmarks/*.py",
    "app.py",
    "dvc.yaml",
    "params.yaml",
    "constraints.txt",
)


def describe(*packages: str) -> dict:
    """Processor, cores, memory, GPU, versions of Python and `packages`, date and commit."""
    changed = "-dirty" if _git("status", "--porcelain", "--", *CODE) else ""
    capabilities = torch.cpu.get_capabilities()
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "machine": {
            "processor": device.processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "memory_gb": round(pages / 1e9),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "bfloat16": [n for n in ("amx_bf16", "avx512_bf16") if capabilities.get(n)],
        },
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in packages},
        "date": datetime.date.today().isoformat(),
        "commit": _git("rev-parse", "--short=12", "HEAD") + changed,
    }


def _git(*command: str) -> str:
    return subprocess.run(["git", *command], capture_output=True, text=True).stdout.strip()
