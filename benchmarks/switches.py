"""`python -m benchmarks.switches [--rounds 5]`: what two things gain that can be switched off, in training and in drawing.

freed memory    src/allocator.py
bfloat16        `precision: auto` on CPUs that are known to be faster in it (src/common/device.py), beside float32

Whole processes, in turns, with both and without one of them: 60 training steps of the defaults after 10, on noise of MNIST's
size, and 2,000 images. Medians of images per second, and of the ratios of the rounds. Writes benchmarks/results/switches.json.
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

from benchmarks.machine import describe
from benchmarks.own import Shape, changed, on_noise
from src import drawing, params
from src.allocator import keep_freed_memory
from src.common import device, reports

RESULT = Path("benchmarks/results/switches.json")
STEPS, IMAGES = 60, 2000
SWITCHES = ("freed memory", "bfloat16")
ALL = "none"  # is off


def there() -> list[str]:
    """Those of SWITCHES that this machine has; of the others it is said why not."""
    missing = {}
    if not keep_freed_memory():
        missing["freed memory"] = "glibc was not told: not Linux, another C library, or MALLOC_ variables are set"
    if device.precision("auto", torch.device("cpu")) != "bfloat16":
        missing["bfloat16"] = "not known to be faster on this processor"
    for name, why in missing.items():
        print(f"{name}: left out, {why}")
    return [name for name in SWITCHES if name not in missing]


def measured(off: str) -> dict[str, float]:
    """Images per second in this process, with one of SWITCHES off, or none."""
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
    sampler = drawing.Sampler.of(p.sample, model)
    labels = torch.arange(IMAGES) % Shape().classes
    drawing.draw(model, sampler, 0, 500, labels[:500], p.sample.batch_size)
    started = time.perf_counter()
    drawing.draw(model, sampler, 0, IMAGES, labels, p.sample.batch_size)
    return {"train": train, "sample": IMAGES / (time.perf_counter() - started)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=(ALL, *SWITCHES), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measured(asked.one)))
        return
    switches, about = there(), describe("torch")
    if not switches:
        return
    rounds, order = [], [ALL, *switches]
    for _ in range(asked.rounds):
        found = {}
        for off in order:
            command = [sys.executable, "-m", "benchmarks.switches", "--one", off]
            found[off] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        order = order[1:] + order[:1]
        rounds.append(found)
        print(found, flush=True)
    result = {
        what: {
            off: {
                "images_per_second_without": statistics.median(found[off][what] for found in rounds),
                "images_per_second_with": statistics.median(found[ALL][what] for found in rounds),
                "ratio": statistics.median(found[ALL][what] / found[off][what] for found in rounds),
            }
            for off in switches
        }
        for what in ("train", "sample")
    }
    reports.write_json(RESULT, result | {"rounds": asked.rounds} | about)
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
