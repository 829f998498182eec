"""What a GPU does with the defaults, and with a network of the size that homework uses.

    python -m benchmarks.gpu                    # equality, speed and memory: two minutes
    python -m benchmarks.gpu --train 30 120     # and the scores after so many seconds of training

Needs a CUDA GPU and the outputs of a run on MNIST. The card's ceiling is measured: products of
large square matrices. Speeds are those of whole training steps, of batches in the processor's
memory. Writes benchmarks/results/gpu.json. `--table` prints the committed table, as in
docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import peers
from benchmarks.own import Judge, Shape, changed, mnist, on_noise, trained, untrained
from benchmarks.tables import table
from src import drawing, model_file, params
from src.common import device, reports
from src.training.trainer import Trainer
from tools.machine import describe

RESULT = Path("benchmarks/results/gpu.json")
MODEL = "models/model.safetensors"
SIDE = 8192  # of the matrices whose product is the ceiling
COMPARED, DRAWN, SCORED = 200, 2_000, 10_000  # images
WARM, TIMED = 10, 50  # training steps
REPEATED = 50  # training steps that are taken twice

HOMEWORK = {section: peers.HOMEWORK[section] for section in ("model", "train")}
WIDE = {"model": {"base_channels": 128, "time_width": 512}}
SIZES: dict[str, dict] = {"default": {}, "four times as wide": WIDE, "homework": HOMEWORK}
# Size, precision, images in a batch, how torch.compile compiles the network.
SPEEDS = [
    ("default", "float32", 128, None),
    ("default", "bfloat16", 128, None),
    ("default", "bfloat16", 1024, None),
    ("four times as wide", "bfloat16", 128, None),
    ("homework", "float32", 128, None),
    ("homework", "bfloat16", 128, None),
    ("homework", "bfloat16", 512, None),
    ("homework", "bfloat16", 128, "default"),
    ("default", "bfloat16", 128, "default"),
]


def ceiling(dtype: torch.dtype) -> float:
    """Floating-point operations per second of a product of large matrices of random numbers."""
    a, b = torch.randn(2, SIDE, SIDE, device=device.best(), dtype=dtype)
    seconds = []
    for _ in range(8):
        torch.cuda.synchronize()
        started = time.perf_counter()
        a @ b
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * SIDE**3 / statistics.median(seconds[3:])


def differences() -> list[dict]:
    """How far the same images are apart, from the same noise: grey levels, 0 to 255."""
    p = params.load()
    labels = torch.arange(COMPARED) % 10

    def drawn(place: str, precision: str) -> torch.Tensor:
        model, _ = model_file.open_model(MODEL, precision)
        model = model.to(place)
        return drawing.draw(model, p.sample.sampler, p.sample.seed, COMPARED, labels).int()

    reference = drawn("cpu", "float32")
    rows = []
    for place, precision in (("cuda", "float32"), ("cuda", "bfloat16"), ("cpu", "bfloat16")):
        apart = (drawn(place, precision) - reference).abs().flatten(1)
        rows.append(
            {
                "device": place,
                "precision": precision,
                "images": COMPARED,
                "largest": int(apart.max()),
                "mean": apart.float().mean().item(),
                "median_largest": apart.max(dim=1).values.float().median().item(),
            }
        )
        print(rows[-1], flush=True)
    return rows


def repeats(precision: str) -> bool:
    """Whether a training gives the same bits twice."""
    p = changed(params.load(), {"train": {"precision": precision, "steps": REPEATED}})
    found = []
    for _ in range(2):
        run = on_noise(p, Shape())
        for _ in run.run():
            pass
        found.append([weights.detach().clone() for weights in run.averaged.parameters()])
    return all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def flops(p: params.Params) -> float:
    """Floating-point operations of training, per image: forward and backward."""
    count = 8
    model = untrained(p, Shape()).to(device.best())
    x0 = torch.zeros(count, 1, 28, 28, device=device.best())
    t = torch.arange(count, device=device.best())
    with FlopCounterMode(display=False) as counter:
        model.loss(x0, x0, t, t if model.conditional else None).mean().backward()
    return counter.get_total_flops() / count


def steps_per_second(trainer: Trainer) -> float:
    """Speed of training, after WARM steps."""
    steps = trainer.run()
    for _ in range(WARM):
        next(steps)
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(TIMED):
        next(steps)
    torch.cuda.synchronize()
    elapsed = time.perf_counter() - started
    steps.close()
    return TIMED / elapsed


def speed(size: str, precision: str, batch: int, compiled: str | None, peak: float) -> dict:
    changes = SIZES[size]
    train = changes.get("train", {}) | {"precision": precision, "batch_size": batch}
    p = changed(params.load(), changes | {"train": train})
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    trainer = on_noise(p, Shape())
    if compiled:
        trainer.denoiser.unet.compile(mode=compiled)
    images = batch * steps_per_second(trainer)
    return {
        "size": size,
        "parameters": sum(w.numel() for w in trainer.denoiser.unet.parameters()),
        "precision": precision,
        "batch": batch,
        "compiled": compiled,
        "images_per_second": images,
        "share_of_ceiling": images * flops(p) / peak,
        "peak_memory_mib": torch.cuda.max_memory_allocated() / 2**20,
    }


def drawing_speed() -> dict:
    """Speed and memory of drawing by the default sampler."""
    p = params.load()
    model, _ = model_file.open_model(MODEL, "auto")
    rows = {}
    for batch in (p.sample.batch_size, DRAWN):
        labels = torch.arange(DRAWN) % 10
        drawing.draw(model, p.sample.sampler, 10, batch, labels, batch)
        torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        drawing.draw(model, p.sample.sampler, 10, DRAWN, labels, batch)
        elapsed = time.perf_counter() - started
        rows[str(batch)] = {
            "images_per_second": DRAWN / elapsed,
            "peak_memory_mib": torch.cuda.max_memory_allocated() / 2**20,
        }
    return rows


def quality(size: str, seconds: float) -> dict:
    """Scores of images drawn after so many seconds of training."""
    p = changed(params.load(), SIZES[size])
    data = mnist()
    run = trained(p, data, seconds)
    # Sampling seed 10 is not reported elsewhere: settings are chosen on it.
    labels = drawing.choose_labels(None, data.class_counts(), 10, SCORED)
    run.model.precision = device.precision("auto", device.best())
    sampler = drawing.fitted(p.sample.sampler, run.model)
    pixels = drawing.draw(run.model, sampler, 10, SCORED, labels, 1_000)
    return {
        "size": size,
        "seconds": run.seconds,
        "images_seen": run.images,
        "images": SCORED,
    } | Judge().scores(pixels, labels)


def markdown(result: dict) -> str:
    """The table of training speeds in docs/results.md."""
    head = ["network", "parameters", "precision", "images in a batch", "torch.compile"]
    head += ["images per second", "share of the ceiling", "memory, MiB"]
    rows = [
        [
            row["size"],
            f"{row['parameters'] / 1e6:.1f} million",
            row["precision"],
            str(row["batch"]),
            "yes" if row["compiled"] else "",
            f"{row['images_per_second']:,.0f}",
            f"{100 * row['share_of_ceiling']:.1f} %",
            f"{row['peak_memory_mib']:,.0f}",
        ]
        for row in result["training"]
    ]
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=float, nargs="+", default=[], metavar="SECONDS")
    parser.add_argument("--size", choices=SIZES, default="default", help="of what --train trains")
    parser.add_argument("--table", action="store_true", help="print the committed table")
    arguments = parser.parse_args()
    if arguments.table:
        print(markdown(json.loads(RESULT.read_text())))
        return
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu: there is no CUDA GPU")
    result = describe("torch")
    if RESULT.exists():
        result = json.loads(RESULT.read_text()) | result

    def keep(**found: object) -> None:
        result.update(found)
        reports.write_json(RESULT, result)
        print(found, flush=True)

    if arguments.train:
        for seconds in arguments.train:
            keep(quality=[*result.get("quality", []), quality(arguments.size, seconds)])
        return
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    peaks = {name: ceiling(dtype) for name, dtype in types.items()}
    keep(ceiling_tflops={name: peak / 1e12 for name, peak in peaks.items()})
    keep(differences=differences())
    keep(same_bits_twice={name: repeats(name) for name in types})
    keep(drawing=drawing_speed())
    rows: list[dict] = []
    for size, precision, batch, compiled in SPEEDS:
        rows.append(speed(size, precision, batch, compiled, peaks[precision]))
        keep(training=rows)


if __name__ == "__main__":
    main()
