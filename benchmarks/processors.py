"""`python -m benchmarks.processors [--rounds 3]`: what takes how long on this processor.

Measures training, drawing and the features of fd_imagenet, in the precision that params.yaml gives
the processor. Each round has a process of its own. Values are medians. Needs models/ of a run on
MNIST. Writes benchmarks/results/processors.json, with a row for bfloat16 and one for float32: the
row of the other kind of processor stays. `--table` prints the committed result, as in
docs/results.md.
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

from benchmarks.own import Shape, on_noise, precision, seconds_per_step, write_rows
from benchmarks.tables import table
from src import drawing, model_file, params
from src.common.allocator import keep_freed_memory
from src.measure.extractors import IMAGENET, LoadedExtractor
from tools.machine import describe

RESULT = Path("benchmarks/results/processors.json")
DRAWN, MEASURED = 1000, 2000  # images


def measure() -> dict[str, float]:
    """Seconds in this process."""
    keep_freed_memory()
    p = params.load()
    found = {"training_step": seconds_per_step(on_noise(p, Shape()))}
    model, _ = model_file.open_model("models/model.safetensors", p.train.precision)
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


def markdown(result: dict) -> str:
    """The table in docs/results.md."""
    rows = result["rows"]
    head = ["", *(f"{row['precision']}, {kind(row['machine'])}" for row in rows)]
    lines = [
        ["training, images a second", "training_images_per_second", "{:.0f}"],
        ["the default training", "training_minutes", "{:.0f} min"],
        ["drawing 10,000 images, 24 evaluations each", "drawing_10000_seconds", "{:.0f} s"],
        ["features of `fd_imagenet`, an image", "imagenet_features_ms", "{:.1f} ms"],
    ]
    return table(
        head, ([what, *(form.format(row[key]) for row in rows)] for what, key, form in lines)
    )


def kind(machine: dict) -> str:
    """Its processor, such as "AMD EPYC without bfloat16"."""
    names = machine["bfloat16"]
    speed = (
        "with AMX" if "amx_bf16" in names else "with AVX-512 BF16" if names else "without bfloat16"
    )
    return f"{machine['processor'].removesuffix(' Processor').replace('(R)', '')} {speed}"


def measure_apart(count: int) -> None:
    """Write the row of this processor: medians of `count` rounds."""
    about, p, rounds = describe("torch"), params.load(), []
    for _ in range(count):
        command = [sys.executable, "-m", __spec__.name, "--one"]
        rounds.append(json.loads(subprocess.check_output(command, text=True).splitlines()[-1]))
        print(rounds[-1], flush=True)
    median = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    row = {
        "precision": precision(),
        "training_images_per_second": p.train.batch_size / median["training_step"],
        "training_minutes": p.train.steps * median["training_step"] / 60,
        "drawing_10000_seconds": 1e4 * median["drawn_image"],
        "imagenet_features_ms": 1e3 * median["imagenet_features_image"],
        "rounds": rounds,
    }
    write_rows(RESULT, [row | about], "precision")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--table", action="store_true", help="print the committed result")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure()))
    elif arguments.table:
        print(markdown(json.loads(RESULT.read_text())))
    else:
        measure_apart(arguments.rounds)


if __name__ == "__main__":
    main()
