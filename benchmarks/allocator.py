"""`python -m benchmarks.allocator [--rounds 5]`: what src/allocator.py gains in training and in drawing.

Whole processes, in turns, with and without it: 60 training steps of the defaults after 10, on noise of MNIST's size, and 2,000
images. Medians of images per second, and the median of the ratios of the rounds. Writes benchmarks/results/allocator.json.
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
from benchmarks.own import Shape, untrained
from src import allocator, drawing, params
from src.trainer import Trainer

RESULT = Path("benchmarks/results/allocator.json")
STEPS, IMAGES = 60, 2000


def measured() -> dict[str, float]:
    """Images per second in this process."""
    p, shape, random = params.load(), Shape(), torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (10_000, 1, shape.image_size, shape.image_size), dtype=torch.uint8, generator=random)
    labels = torch.arange(len(images)) % shape.classes
    trainer = Trainer(untrained(p, shape), images, labels, p.train, p.seed, "cpu")
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
    drawing.draw(model, sampler, 0, 500, labels, p.sample.batch_size)
    started = time.perf_counter()
    drawing.draw(model, sampler, 0, IMAGES, labels, p.sample.batch_size)
    return {"train": train, "sample": IMAGES / (time.perf_counter() - started)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=("with", "without"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        if asked.one == "with" and not allocator.keep_freed_memory():
            sys.exit("glibc was not told: not Linux, another C library, or MALLOC_ variables are set")
        print(json.dumps(measured()))
        return
    rounds = []
    for i in range(asked.rounds):
        found = {}
        for which in ("with", "without") if i % 2 else ("without", "with"):
            command = [sys.executable, "-m", "benchmarks.allocator", "--one", which]
            found[which] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        rounds.append(found)
        print(found, flush=True)
    result = {
        what: {
            "images_per_second_without": statistics.median(found["without"][what] for found in rounds),
            "images_per_second_with": statistics.median(found["with"][what] for found in rounds),
            "ratio": statistics.median(found["with"][what] / found["without"][what] for found in rounds),
        }
        for what in ("train", "sample")
    }
    RESULT.write_text(json.dumps(result | {"rounds": asked.rounds} | describe("torch"), indent=2) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
