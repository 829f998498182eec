"""`python -m benchmarks.quick_start [--only NAME ...]`: what the commands of the README cost.

Each runs in a fresh clone of the last commit, once in each arithmetic of benchmarks.processors. The
values are seconds, memory, and the size of all outputs. Of `make run`, after `make install`, the
memory is the peak of the largest stage. `make demo` ends when a browser shows a hundred digits; its
memory is the server's at that moment (medians of three servers). `make run` on MNIST without a
preset is not among them: benchmarks/results/stages.jsonl has its costs.

Needs MNIST_MIRROR or the network, and Chromium for the demo. Takes an hour. Writes
benchmarks/results/quick_start.json; rows of other commands stay. `--table` prints the committed
result, as in docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import psutil
import yaml
from playwright.sync_api import Browser, sync_playwright

from benchmarks.demo import CHROMIUM, FLAGS, serving
from benchmarks.processors import ARITHMETIC
from benchmarks.tables import HEADINGS, METRICS, duration, score, table
from src.common import reports
from tools.machine import describe
from tools.soak import run

RESULT = Path("benchmarks/results/quick_start.json")
DEMO, DIGITS, QUICK = "make demo", "make run DATA=digits", "make run PRESET=quick"
ROUNDS = 3  # of the demo
IMAGE = '[data-testid="stImage"] img'


def clone(folder: Path, precision: str) -> None:
    """Clone the last commit to `folder`, to compute there in `precision`."""
    run(Path.cwd(), "git", "clone", "--quiet", ".", str(folder))
    values = yaml.safe_load((folder / "params.yaml").read_text())
    for section in ("train", "sample", "sweep"):
        values[section]["precision"] = precision
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def of_pipeline(folder: Path, command: str) -> dict[str, float]:
    """Time, memory and disk of a `make run`, and some metrics."""
    run(folder, "make", "install")
    started = time.perf_counter()
    run(folder, *command.split())
    seconds = time.perf_counter() - started
    log = (folder / ".scratch/stages.jsonl").read_text().splitlines()
    lock = yaml.safe_load((folder / "dvc.lock").read_text())
    outs = [out["size"] for stage in lock["stages"].values() for out in stage.get("outs", [])]
    found = {
        "seconds": seconds,
        "memory_mib": max(json.loads(line)["peak_mib"] for line in log),
        "disk_mb": (sum(outs) + size(folder / "data")) / 1e6,
    }
    for metric in METRICS:
        file, _, key = metric.partition(".")
        found[metric] = json.loads((folder / f"metrics/{file}.json").read_text())[key]
    return found


def of_demo(folder: Path, browser: Browser) -> dict[str, float]:
    """Time until the demo shows its first images, its memory, and the size of models/."""
    seconds, memory = [], []
    run(folder, sys.executable, "-m", "dvc", "pull", "--quiet", "models/model.safetensors")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        with serving(folder) as address:
            page = browser.new_page()
            page.goto(address)
            page.wait_for_selector(IMAGE, timeout=900_000)
            seconds.append(time.perf_counter() - started)
            children = psutil.Process().children(recursive=True)
            servers = [one for one in children if "tools.demo" in " ".join(one.cmdline())]
            memory.append(max(one.memory_info().rss for one in servers) / 2**20)
            page.close()
    return {
        "seconds": statistics.median(seconds),
        "memory_mib": statistics.median(memory),
        "disk_mb": size(folder / "models") / 1e6,
    }


def size(folder: Path) -> int:
    """Bytes of all files in the folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(command: str, precision: str) -> dict[str, float]:
    """What the command costs with this precision, and the instructions that belong to it."""
    with tempfile.TemporaryDirectory() as temporary, patch.dict(os.environ, ARITHMETIC[precision]):
        folder = Path(temporary, "clone")
        clone(folder, precision)
        if command != DEMO:
            return of_pipeline(folder, command)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            try:
                return of_demo(folder, browser)
            finally:
                browser.close()


def markdown(result: dict) -> str:
    """The table in docs/results.md."""
    head = ["command", "precision", "time", "memory", "disk", *HEADINGS]
    prefers = "bfloat16" if result["machine"]["bfloat16"] else "float32"
    words = {"auto": prefers, "float32": "float32 with AVX2 alone"}
    lines = []
    for row in result["rows"]:
        scores = [score(row, metric) for metric in METRICS]
        costs = [duration(row["seconds"]), f"{row['memory_mib']:,.0f} MiB"]
        costs.append(f"{row['disk_mb']:.0f} MB")
        lines.append([f"`{row['command']}`", words[row["precision"]], *costs, *scores])
    return table(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = (DEMO, DIGITS, QUICK)
    parser.add_argument("--only", nargs="*", choices=commands, default=commands)
    parser.add_argument("--precisions", nargs="*", choices=ARITHMETIC, default=list(ARITHMETIC))
    parser.add_argument("--table", action="store_true", help="print the committed result")
    arguments = parser.parse_args()
    if not arguments.table:
        about = describe("torch", "dvc", "streamlit")
        rows = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
        for command in arguments.only:
            for precision in arguments.precisions:
                row = {"command": command, "precision": precision}
                row |= measure(command, precision)
                print(row, flush=True)
                rows = [r for r in rows if (r["command"], r["precision"]) != (command, precision)]
                rows.append(row)
                rows.sort(key=lambda r: (commands.index(r["command"]), r["precision"]))
                reports.write_json(RESULT, {"rows": rows} | about)
    print(markdown(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main()
