"""`python -m benchmarks.replicas [--rounds 3]`: training with one copy of the model a core.

Compares it with one model whose work all cores share: alone, and beside a process that keeps one
core busy; in this processor's own arithmetic, and in float32 with AVX2 alone. Each measurement has
a process of its own; rounds alternate. Values are medians of images a second. Writes
benchmarks/results/replicas.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from benchmarks.own import AVX2, Shape, changed, on_noise, seconds_per_step
from src import params
from src.common import reports
from src.common.allocator import keep_freed_memory
from src.training.trainer import Trainer
from tools.machine import describe

RESULT = Path("benchmarks/results/replicas.json")
ARITHMETIC = {"auto": {}, "float32": AVX2}
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


def measure(precision: str, copies: str) -> float:
    """Images a second of this process."""
    keep_freed_memory()
    p = changed(params.load(), {"train": {"precision": precision}})
    if copies == "one":
        Trainer._replica_count = lambda trainer: 1
    return p.train.batch_size / seconds_per_step(on_noise(p, Shape()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("PRECISION", "COPIES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(measure(*arguments.one))
        return
    speeds: dict[tuple, list[float]] = {}
    for _ in range(arguments.rounds):
        for precision, variables in ARITHMETIC.items():
            for busy in (False, True):
                for copies in COPIES:
                    command = [sys.executable, "-m", __spec__.name, "--one", precision, copies]
                    with company(busy):
                        done = subprocess.run(
                            command, env=os.environ | variables, stdout=subprocess.PIPE, check=True
                        )
                    speeds.setdefault((precision, busy, copies), []).append(float(done.stdout))
                    print(precision, busy, copies, float(done.stdout), flush=True)
    rows = [
        {
            "precision": precision,
            "instructions": "AVX2" if ARITHMETIC[precision] else "all",
            "beside_a_busy_process": busy,
            "copies": copies,
            "images_per_second": statistics.median(values),
            "rounds": values,
        }
        for (precision, busy, copies), values in speeds.items()
    ]
    reports.write_json(RESULT, {"rows": rows} | describe("torch"))


if __name__ == "__main__":
    main()
