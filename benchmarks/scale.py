"""`python -m benchmarks.scale [COUNT ...]`: time and memory of each stage on large archives.

Each archive is a zip of COUNT colour PNGs of 64x64 pixels in ten folders (default: 20,000 and
200,000). In a clone of the last commit, every stage runs on it, with little training and few drawn
images, so that the archive decides the cost. The exponent of a stage's time is log(ratio of times)
/ log(ratio of counts): 1 is linear, 2 quadratic.

Memory is the peak of a stage's own pages. Files that it maps are not counted: the system drops
their pages when it needs memory.

Needs Linux, 15 GB of disk, and an hour or more. Writes benchmarks/results/scale.json; rows of other
counts stay. `--table` prints the table of its smallest and largest count.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil
import yaml
from PIL import Image

from benchmarks.own import write_rows
from benchmarks.tables import duration, table
from stages.__main__ import NAMES
from tools.machine import describe
from tools.soak import run

RESULT = Path("benchmarks/results/scale.json")
COUNTS = (20_000, 200_000)
SIDE, CLASSES = 64, 10
INTERVAL = 0.1  # seconds between readings of the memory
LITTLE = {
    "train": {"steps": 20, "evaluate_interval": 20, "sample_interval": 20, "warmup_steps": 5},
    "sample": {"count": 500, "steps": 6, "batch_size": 100},
    "classifier": {"epochs": 1},
    "spread": {"seeds": 2},
    "sweep": {"samplers": ["ddim trailing"], "steps": [4], "count": 100},
    "fidelity": {"images": 500},
    "bound": {"images": 500},
}


def picture(number: int) -> bytes:
    """A PNG: a disc in the colour of its class, on a background with a gradient and noise."""
    random = np.random.default_rng(number)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    centre, radius = random.uniform(0.3, 0.7, 2), random.uniform(0.15, 0.3)
    inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
    angle = 2 * math.pi * (number % CLASSES) / CLASSES
    colour = [128 + 100 * math.cos(angle + shift) for shift in (0, 2, 4)]
    image = np.where(inside[..., None], colour, 40 + 80 * (x + y)[..., None])
    image = (image + random.normal(0, 4, (SIDE, SIDE, 1))).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue()


def prepare(folder: Path, count: int) -> None:
    """Clone the last commit to `folder`, with an archive of `count` images and LITTLE work."""
    run(Path.cwd(), "git", "clone", "--quiet", ".", str(folder))
    (folder / "data").mkdir()
    with zipfile.ZipFile(folder / "data/discs.zip", "w") as archive:
        for number in range(count):
            archive.writestr(f"{number % CLASSES}/{number:06d}.png", picture(number))
    values = yaml.safe_load((folder / "params.yaml").read_text())
    for section, changes in LITTLE.items():
        values[section] |= changes
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    run(folder, sys.executable, "-m", "tools.get_data")


def own_memory(process: psutil.Process) -> int:
    """Bytes of memory that are no pages of files; 0 if the process has ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0
    return 1024 * sum(int(size) for size in re.findall(r"Rss(?:Anon|Shmem):\s+(\d+) kB", status))


def watched(folder: Path) -> dict[str, int]:
    """Run `dvc repro` in a folder. Returns the peak memory of each stage, in bytes."""
    peaks: dict[str, int] = {}
    with subprocess.Popen([sys.executable, "-m", "dvc", "repro"], cwd=folder) as process:
        while process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    command = child.cmdline()
                    if command[1:3] == ["-m", "stages"]:
                        peaks[command[3]] = max(peaks.get(command[3], 0), own_memory(child))
            time.sleep(INTERVAL)
    if process.returncode:
        raise RuntimeError(f"dvc repro failed in {folder}")
    return peaks


def measure(count: int) -> dict:
    """Seconds and peak memory of each stage."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "clone")
        prepare(folder, count)
        peaks = watched(folder)
        log = (folder / ".scratch/stages.jsonl").read_text().splitlines()
        size = (folder / "arrays/dataset.safetensors").stat().st_size
    seconds = {record["stage"]: record["seconds"] for record in map(json.loads, log)}
    stages = {
        name: {"seconds": seconds[name], "memory_mib": round(peaks[name] / 2**20)} for name in NAMES
    }
    return {"count": count, "array_mb": size / 1e6, "stages": stages}


def markdown(result: dict) -> str:
    """The table of the smallest and the largest archive."""
    few, many = result["rows"][0], result["rows"][-1]  # the smallest and the largest
    head = ["stage"]
    head += [
        f"{what}, {row['count']:,} images" for what in ("time", "memory") for row in (few, many)
    ]
    lines = []
    for name in NAMES:
        pair = [row["stages"][name] for row in (few, many)]
        ratio = math.log(pair[1]["seconds"] / pair[0]["seconds"])
        exponent = round(ratio / math.log(many["count"] / few["count"]), 1) + 0  # no -0.0
        lines.append([f"`{name}`", *_cells(pair), f"{exponent:.1f}"])
    whole = [
        {
            "seconds": sum(stage["seconds"] for stage in row["stages"].values()),
            "memory_mib": max(stage["memory_mib"] for stage in row["stages"].values()),
        }
        for row in (few, many)
    ]
    return table([*head, "exponent of time"], [*lines, ["all", *_cells(whole), ""]])


def _cells(pair: list[dict]) -> list[str]:
    """Two times and two sizes of memory."""
    times = [duration(one["seconds"]) for one in pair]
    return times + [f"{one['memory_mib']:,} MiB" for one in pair]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("counts", nargs="*", type=int, default=COUNTS)
    parser.add_argument("--table", action="store_true", help="print the table alone")
    arguments = parser.parse_args()
    if not arguments.table:
        about = describe("torch", "dvc")
        for count in arguments.counts:
            row = measure(count)
            print(row, flush=True)
            write_rows(RESULT, [row | about], "count")
    result = json.loads(RESULT.read_text())
    if len(result["rows"]) > 1:
        print(markdown(result))


if __name__ == "__main__":
    main()
