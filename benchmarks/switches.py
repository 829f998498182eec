"""`python -m benchmarks.switches [--rounds 5]`: what two switches gain in training and drawing.

freed memory    Keep freed memory (src/common/allocator.py).
bfloat16        Use bfloat16 instead of float32 on CPUs that are known to be faster in it
                (`precision: auto`, src/common/device.py).

Processes take turns: one has both switches on, the others have one switch off. Each trains with
params.yaml on noise of MNIST's size, for 60 steps after 10 to warm up, and then draws 2,000 images.
Writes medians of images per second, and of their ratios, to benchmarks/results/switches.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.own import Shape, changed, on_noise
from src import drawing, params
from src.common import device, reports
from src.common.allocator import keep_freed_memory
from tools.machine import describe

RESULT = Path("benchmarks/results/switches.json")
STEPS, IMAGES = 60, 2000
SWITCHES = ("freed memory", "bfloat16")
ALL_ON = "none"  # no switch is off


def available() -> list[str]:
    """The SWITCHES that work on this machine. Prints why the others do not."""
    missing = {}
    if not keep_freed_memory():
        missing["freed memory"] = (
            "glibc's thresholds are not set: not Linux, not glibc, or MALLOC_ variables are set"
        )
    if device.precision("auto", torch.device("cpu")) != "bfloat16":
        missing["bfloat16"] = "not known to be faster on this processor"
    for name, why in missing.items():
        print(f"{name}: left out, {why}")
    return [name for name in SWITCHES if name not in missing]


def measure(off: str) -> dict[str, float]:
    """Images per second in this process, with one of SWITCHES off, or with all on."""
    p = params.load()
    if off != "freed memory":
        keep_freed_memory()
    if off == "bfloat16":
        p = changed(p, {"train": {"precision": "float32"}})
    trainer = on_noise(p, Shape())
    steps = trainer.run()
    for _ in range(10):
        next(steps)
    started = time.perf_counter()
    for _ in range(STEPS):
        next(steps)
    train = STEPS * p.train.batch_size / (time.perf_counter() - started)
    model = trainer.averaged
    model.guide = model.unet
    sampler = drawing.fitted(p.sample.sampler, model)
    labels = torch.arange(IMAGES) % Shape().classes
    drawing.draw(model, sampler, 0, 500, labels[:500], p.sample.batch_size)
    started = time.perf_counter()
    drawing.draw(model, sampler, 0, IMAGES, labels, p.sample.batch_size)
    return {"train": train, "sample": IMAGES / (time.perf_counter() - started)}


def measure_apart(off: str) -> dict[str, float]:
    """`measure` in its own process."""
    command = [sys.executable, "-m", "benchmarks.switches", "--one", off]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def medians(rounds: list[dict], work: str, off: str) -> dict[str, float]:
    """Rates of "train" or "sample" with one switch off and with all on, and their ratio."""
    without = [rates[off][work] for rates in rounds]
    with_all = [rates[ALL_ON][work] for rates in rounds]
    ratios = [b / a for a, b in zip(without, with_all, strict=True)]
    return {
        "images_per_second_without": statistics.median(without),
        "images_per_second_with": statistics.median(with_all),
        "ratio": statistics.median(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=(ALL_ON, *SWITCHES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    switches, about = available(), describe("torch")
    if not switches:
        return
    rounds, order = [], [ALL_ON, *switches]
    for _ in range(arguments.rounds):
        rounds.append({off: measure_apart(off) for off in order})
        order = order[1:] + order[:1]
        print(rounds[-1], flush=True)
    result = {
        work: {off: medians(rounds, work, off) for off in switches} for work in ("train", "sample")
    }
    reports.write_json(RESULT, result | {"rounds": arguments.rounds} | about)
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
