"""`python -m benchmarks.score [FOLDER]`: does a score depend on threads and instructions?

Scores one folder (default: generated_images/, without labels) with one and two threads, and with
AVX2 alone. Writes benchmarks/results/score.json: all scores, and the largest differences from the
first row.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from src.common import reports
from tools.machine import describe

RESULT = Path("benchmarks/results/score.json")
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
SETTINGS: dict[str, dict[str, str]] = {
    "two threads": {"OMP_NUM_THREADS": "2"},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "two threads, AVX2": {"OMP_NUM_THREADS": "2"} | AVX2,
}
DISTANCES = ("fd_imagenet", "fd_digits")


def scores(folder: Path, environment: dict[str, str]) -> dict[str, float]:
    """What `tools.score` writes, in a process of its own."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as temporary:
        for name in ("yardstick", "arrays", "data"):
            (Path(temporary) / name).symlink_to(here / name)
        command = [sys.executable, "-m", "tools.score", str(folder.absolute()), "--classes", "none"]
        variables = os.environ | environment | {"PYTHONPATH": str(here)}
        subprocess.run(command, cwd=temporary, env=variables, check=True, stdout=subprocess.DEVNULL)
        result = json.loads((Path(temporary) / f"scores/{folder.name}.json").read_text())
    return {name: one["value"] for name, one in result["scores"].items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("generated_images"))
    arguments = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    for name, environment in SETTINGS.items():
        rows[name] = scores(arguments.folder, environment)
        print(name, rows[name], flush=True)
    first, *others = rows.values()
    differences = {
        key: max(abs(row[key] - value) / (value if key in DISTANCES else 1) for row in others)
        for key, value in first.items()
    }
    result = {"rows": rows, "relative_for": DISTANCES, "largest_differences": differences}
    reports.write_json(RESULT, result | describe("torch"))
    print(differences)


if __name__ == "__main__":
    main()
