"""`python -m benchmarks.replicas [--rounds 3]`: training with one copy of the model a core.

Compares it with one model whose work all cores share: alone, and beside a process that keeps one
core busy. Each measurement has a process of its own; rounds alternate. Values are medians of images
a second. Writes benchmarks/results/replicas.json, with rows for bfloat16 and for float32: those of
the other kind of processor stay. `--table` prints the committed result, as in docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from benchmarks.own import Shape, on_noise, precision, seconds_per_step, write_rows
from benchmarks.tables import table
from src import params
from src.common.allocator import keep_freed_memory
from src.training.trainer import Trainer
from tools.machine import describe

RESULT = Path("benchmarks/results/replicas.json")
COPIES = ("one", "one a core")


@contextmanager
def company(busy: bool):
    """Another process that computes without end, if `busy`."""
    if not busy:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure(copies: str) -> float:
    """Images a second of this process."""
    keep_freed_memory()
    p = params.load()
    if copies == "one":
        Trainer._replica_count = lambda trainer: 1
    return p.train.batch_size / seconds_per_step(on_noise(p, Shape()))


def markdown(result: dict) -> str:
    """The table in docs/results.md."""
    speed = {
        (row["precision"], row["beside_a_busy_process"], row["copies"]): row["images_per_second"]
        for row in result["rows"]
    }
    lines = [
        [f"{precision}, {'beside a busy process' if busy else 'alone'}"]
        + [f"{speed[precision, busy, copies]:.0f}" for copies in COPIES]
        for precision, busy in dict.fromkeys((row[0], row[1]) for row in speed)
    ]
    return table(["", "one model for both cores", "a copy for each core"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=COPIES, help=argparse.SUPPRESS)
    parser.add_argument("--table", action="store_true", help="print the committed result")
    arguments = parser.parse_args()
    if arguments.one:
        print(measure(arguments.one))
        return
    if arguments.table:
        print(markdown(json.loads(RESULT.read_text())))
        return
    about = describe("torch")
    speeds: dict[tuple[bool, str], list[float]] = {}
    for _ in range(arguments.rounds):
        for busy in (False, True):
            for copies in COPIES:
                command = [sys.executable, "-m", __spec__.name, "--one", copies]
                with company(busy):
                    speed = float(subprocess.check_output(command, text=True))
                speeds.setdefault((busy, copies), []).append(speed)
                print(busy, copies, speed, flush=True)
    rows = [
        {
            "precision": precision(),
            "beside_a_busy_process": busy,
            "copies": copies,
            "images_per_second": statistics.median(values),
            "rounds": values,
        }
        | about
        for (busy, copies), values in speeds.items()
    ]
    write_rows(RESULT, rows, "precision", "beside_a_busy_process", "copies")


if __name__ == "__main__":
    main()
