"""`python -m benchmarks.quick_start [--only NAME ...]`: what the commands of the README cost.

Each runs in a fresh clone of the last commit, after `make install`. The values are seconds, memory,
and the size of all outputs. The memory of `make run` is the peak of the largest stage. `make demo`
ends when a browser shows a hundred digits; its memory is the server's at that moment (medians of
three servers).

`make run` on MNIST without a preset is not among them. benchmarks/results/stages.jsonl has
its costs.

Needs MNIST_MIRROR or the network, and Chromium for the demo. Takes an hour or more. Writes
benchmarks/results/quick_start.json; rows of other commands, and those of the other kind of
processor, stay. `--table` prints the committed result, as in docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml
from playwright.sync_api import Browser, sync_playwright

from benchmarks.demo import CHROMIUM, FLAGS, serving
from benchmarks.own import precision, write_rows
from benchmarks.tables import HEADINGS, METRICS, duration, score, table
from tools.machine import describe
from tools.soak import run

RESULT = Path("benchmarks/results/quick_start.json")
DEMO, DIGITS, QUICK = "make demo", "make run DATA=digits", "make run PRESET=quick"
COMMANDS = (DEMO, DIGITS, QUICK)
ROUNDS = 3  # of the demo
IMAGE = '[data-testid="stImage"] img'


def of_pipeline(folder: Path, command: str) -> dict:
    """Time of a `make run` and of its stages, memory, disk, and some metrics."""
    run(folder, "make", "install")
    started = time.perf_counter()
    run(folder, *command.split())
    seconds = time.perf_counter() - started
    log = (folder / ".scratch/stages.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in log]
    lock = yaml.safe_load((folder / "dvc.lock").read_text())
    outs = [out["size"] for stage in lock["stages"].values() for out in stage.get("outs", [])]
    found = {
        "seconds": seconds,
        "stages": {record["stage"]: record["seconds"] for record in records},
        "memory_mib": max(record["peak_mib"] for record in records),
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


def measure(command: str) -> dict:
    """What the command costs here."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "clone")
        run(Path.cwd(), "git", "clone", "--quiet", ".", str(folder))
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
    lines = []
    for row in result["rows"]:
        scores = [score(row, metric) for metric in METRICS]
        costs = [duration(row["seconds"]), f"{row['memory_mib']:,.0f} MiB"]
        costs.append(f"{row['disk_mb']:.0f} MB")
        lines.append([f"`{row['command']}`", row["precision"], *costs, *scores])
    return table(["command", "precision", "time", "memory", "disk", *HEADINGS], lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=COMMANDS, default=COMMANDS)
    parser.add_argument("--table", action="store_true", help="print the committed result")
    arguments = parser.parse_args()
    if not arguments.table:
        about = describe("torch", "dvc", "streamlit")
        for command in arguments.only:
            row = {"command": command, "precision": precision()} | measure(command)
            print(row, flush=True)
            write_rows(RESULT, [row | about], "command", "precision")
    print(markdown(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main()
