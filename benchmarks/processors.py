"""`python -m benchmarks.processors [--rounds 3]`: what takes how long, by arithmetic.

Measures training, drawing and the features of fd_imagenet in the arithmetic that this processor
prefers, and in float32 with AVX2 alone. Each measurement has a process of its own, and rounds
alternate. Values are medians. Needs models/ of a run on MNIST. Writes
benchmarks/results/processors.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.own import AVX2, Shape, changed, on_noise, seconds_per_step
from src import drawing, model_file, params
from src.common import reports
from src.common.allocator import keep_freed_memory
from src.measure.extractors import IMAGENET, LoadedExtractor
from tools.machine import describe

RESULT = Path("benchmarks/results/processors.json")
ARITHMETIC: dict[str, dict[str, str]] = {"auto": {}, "float32": AVX2}
DRAWN, MEASURED = 1000, 2000  # images


def measure(precision: str) -> dict[str, float]:
    """Seconds in this process."""
    keep_freed_memory()
    p = changed(params.load(), {"train": {"precision": precision}})
    found = {"training_step": seconds_per_step(on_noise(p, Shape()))}
    model, _ = model_file.open_model("models/model.safetensors", precision)
    labels = torch.arange(DRAWN) % 10
    drawing.draw(model, p.sample.sampler, 10, p.sample.batch_size, labels[: p.sample.batch_size])
    started = time.perf_counter()
    pixels = drawing.draw(model, p.sample.sampler, 10, DRAWN, labels)
    found["drawn_image"] = (time.perf_counter() - started) / DRAWN
    network = LoadedExtractor(IMAGENET)
    network.moments(pixels[:100])
    started = time.perf_counter()
    network.moments(pixels.repeat(MEASURED // DRAWN, 1, 1, 1))
    found["imagenet_features_image"] = (time.perf_counter() - started) / MEASURED
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", metavar="PRECISION", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    about, p = describe("torch"), params.load()
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ARITHMETIC}
    for _ in range(arguments.rounds):
        for name, variables in ARITHMETIC.items():
            command = [sys.executable, "-m", __spec__.name, "--one", name]
            output = subprocess.check_output(command, env=os.environ | variables, text=True)
            rounds[name].append(json.loads(output.splitlines()[-1]))
            print(name, rounds[name][-1], flush=True)
    rows = []
    for name, found in rounds.items():
        median = {key: statistics.median(one[key] for one in found) for key in found[0]}
        row = {
            "precision": name,
            "instructions": "AVX2" if ARITHMETIC[name] else "all",
            "training_images_per_second": p.train.batch_size / median["training_step"],
            "training_minutes": p.train.steps * median["training_step"] / 60,
            "drawing_10000_seconds": 1e4 * median["drawn_image"],
            "imagenet_features_ms": 1e3 * median["imagenet_features_image"],
            "rounds": found,
        }
        rows.append(row)
    reports.write_json(RESULT, {"rows": rows} | about)


if __name__ == "__main__":
    main()
