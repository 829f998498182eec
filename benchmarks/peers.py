"""`python -m benchmarks.peers [--minutes 5 15 30] [--draw-minutes 1] [--only NAME ...]`: as long a training, we and others.

Same machine, same MNIST training images, same minutes, one process after another:

ours                      the defaults of params.yaml, with as many steps as fit
seed recipe               a homework's network and sampler (base 128, multipliers 1-2-4, epsilon, linear, Adam 2e-4, 50 steps of
                          DDIM) in our parameters, so that our trainer does its work: batches of 128, 120 epochs of steps in
                          which the rate falls to zero, our growing average of weights instead of 0.995, bfloat16 where the
                          processor is faster in it
diffusers                 UNet2DModel and the defaults of its script for unconditional training; its DDIM pipeline with its 50
                          steps, and DPM-Solver++ with 20
denoising-diffusion-pytorch   the Unet of its README and its own Trainer; its DDIM with 250 steps

The last two compute in float32, as they do by default, and get 32x32 images, MNIST's with a margin, since their networks halve
the side three or five times, no flips, and a single channel; all else is their default. They are made for hours of a GPU: what
they have learned after these minutes says what a user of two cores gets, not what they can do. Ours and the seed recipe keep
freed memory, as our stages do. Our learning rate falls to zero as the minutes end, so for each count of minutes ours is trained
anew; the others' knows nothing of these minutes: they are trained once, and wait while they are looked at.

After each count of minutes each draws for `--draw-minutes`, at most 10,000 images, which for some are few. Precision is sound for
any number of images and stands beside that of real test digits; `fd_digits` is told from 512 images on, beside that of as many
real ones. Seconds for 10,000 images are of the rate so measured. Peak memory is of the whole process up to there, with the images
as this benchmark holds them.

Needs arrays/, models/classifier.safetensors and reference/ of a run on MNIST. Writes benchmarks/results/peers.json and, with the
first digits that each drew, docs/pictures/peers.png: what is in there is of one call, and is written anew with each line of the
table. With --table it prints what is committed as the README has it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.machine import describe
from benchmarks.own import changed, mnist, trained, untrained
from src import classifier, drawing, frechet, images, params, provenance, torchvision_remedy  # noqa: F401 (before diffusers)
from src.allocator import keep_freed_memory
from src.common import dataset, reports
from src.common.randomness import generator
from src.diffusion.denoiser import Denoiser
from src.quality import neighbours
from src.training.trainer import Trainer

RESULT, PICTURE = Path("benchmarks/results/peers.json"), Path("docs/pictures/peers.png")
Draw = Callable[[int], Tensor]  # so many images more: uint8 (B, 1, 28, 28)
SIDE, MARGIN = 28, 2
MOST, LARGEST_BATCH, ENOUGH, SHOWN = 10_000, 512, 512, 8  # images drawn, at a time, for a distance, in the picture


class TimeIsUp(Exception):
    pass


@dataclass(frozen=True)
class Peer:
    """A model after so many seconds of training: images it saw by then, and samplers by name. Of use until the next one comes."""

    images: int
    seconds: float
    draws: dict[str, Draw]


def padded(data: dataset.Dataset) -> Tensor:
    """float32 (N, 1, 32, 32) in [-1, 1]."""
    return F.pad(dataset.to_float(data.images), [MARGIN] * 4, value=-1)


def cut(x: Tensor) -> Tensor:
    """The middle of 32x32 images in [-1, 1], as pixels."""
    return dataset.to_pixels(x)[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]


def own_draw(model: Denoiser, sampler: drawing.Sampler, seed: int, data: dataset.Dataset) -> Draw:
    labels, done = drawing.choose_labels(None, data.class_counts() if model.conditional else [], seed, 2 * MOST), [0]

    def draw(count: int) -> Tensor:
        first, done[0] = done[0] + 1, done[0] + count
        size = -(-count // torch.get_num_threads())  # a batch for each core
        parts = [range(n, min(n + size, first + count)) for n in range(first, first + count, size)]
        return torch.cat([batch.images for batch in drawing.batches(model, sampler, seed, labels, parts)])

    return draw


def own_draws(p: params.Params, model: Denoiser, data: dataset.Dataset) -> dict[str, Draw]:
    sampler = drawing.Sampler.of(p.sample, model)
    return {f"{sampler.method}, {sampler.evaluations(model)} evaluations": own_draw(model, sampler, p.sample.seed, data)}


def ours(data: dataset.Dataset, marks: list[float]) -> Iterator[Peer]:
    p = params.load()
    for seconds in marks:
        run = trained(p, data, seconds)
        yield Peer(run.images, run.seconds, own_draws(p, run.model, data))


def seed_recipe(data: dataset.Dataset, marks: list[float]) -> Iterator[Peer]:
    p = changed(params.load(), {
        "schedule": "linear",
        "model": {
            "patch_size": 1, "base_channels": 128, "multipliers": [1, 2, 4], "prediction": "epsilon", "conditional": False,
            "attention_resolutions": [14, 7], "heads": 4, "time_width": 512,
        },
        "train": {
            "steps": 120 * len(data.images) // 128, "lr": 2e-4, "muon_lr": None, "weight_decay": 0.0, "warmup_steps": 0,
            "focus": 0.0,
        },
        "sample": {"method": "ddim", "steps": 50, "spacing": "leading", "eta": 0.0, "guidance": 1.0, "autoguidance": 1.0},
    })
    keep_freed_memory()
    trainer = Trainer(untrained(p, data), data.images, data.labels, p.train, p.seed, "cpu")
    steps, took = trainer.run(), 0.0
    for seconds in marks:
        started = time.perf_counter() - took
        while took < seconds:
            next(steps)
            took = time.perf_counter() - started
        yield Peer(trainer.step * p.train.batch_size, took, own_draws(p, trainer.averaged, data))


def diffusers(data: dataset.Dataset, marks: list[float]) -> Iterator[Peer]:
    from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
    from diffusers.optimization import get_scheduler

    down, up = [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"], ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4]
    unet = UNet2DModel(
        sample_size=SIDE + 2 * MARGIN, in_channels=1, out_channels=1, layers_per_block=2,
        block_out_channels=(128, 128, 256, 256, 512, 512), down_block_types=down, up_block_types=up,
    )
    noise, batch = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear"), 16
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    rate = get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=100 * len(data.images) // batch)
    x, random = padded(data), generator(0, "diffusers")

    def step() -> None:
        x0 = x[torch.randint(len(x), (batch,), generator=random)]
        eps, t = torch.randn(x0.shape, generator=random), torch.randint(1000, (batch,), generator=random)
        loss = F.mse_loss(unet(noise.add_noise(x0, eps, t), t).sample, eps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()

    pipeline = DDIMPipeline(unet, DDIMScheduler.from_config(noise.config))
    pipeline.set_progress_bar_config(disable=True)

    def ddim(count: int) -> Tensor:
        found = pipeline(batch_size=count, generator=random, output_type="np").images  # (B, H, W, 1) in [0, 1]
        return cut(torch.from_numpy(found).permute(0, 3, 1, 2) * 2 - 1)

    @torch.inference_mode()
    def dpm(count: int) -> Tensor:
        solver = DPMSolverMultistepScheduler.from_config(noise.config)
        solver.set_timesteps(20)
        x = torch.randn(count, 1, SIDE + 2 * MARGIN, SIDE + 2 * MARGIN, generator=random)
        for t in solver.timesteps:
            x = solver.step(unet(x, t).sample, t, x).prev_sample
        return cut(x)

    seen, took = 0, 0.0
    for seconds in marks:
        unet.train()
        started = time.perf_counter() - took
        while took < seconds:
            step()
            seen, took = seen + batch, time.perf_counter() - started
        unet.eval()
        yield Peer(seen, took, {"DDIMPipeline, 50 evaluations": ddim, "DPM-Solver++, 20 evaluations": dpm})


def denoising_diffusion_pytorch(data: dataset.Dataset, marks: list[float]) -> Iterator[Peer]:
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from denoising_diffusion_pytorch import Trainer as TheirTrainer

    model = Unet(dim=64, dim_mults=(1, 2, 4, 8), channels=1)
    diffusion = GaussianDiffusion(model, image_size=SIDE + 2 * MARGIN, timesteps=1000, sampling_timesteps=250)
    with tempfile.TemporaryDirectory() as folder:
        images.write(folder, 1, dataset.to_pixels(padded(data)))
        trainer = TheirTrainer(
            diffusion, folder, augment_horizontal_flip=False, calculate_fid=False, results_folder=f"{folder}/results",
            save_and_sample_every=10**9,  # which would take time from training
        )
        update, took, seconds, started = trainer.ema.update, 0.0, 0.0, 0.0

        def heed_the_time() -> None:  # called last in each of their steps
            nonlocal took
            update()
            took = time.perf_counter() - started
            if took > seconds:
                raise TimeIsUp

        trainer.ema.update = heed_the_time
        averaged = trainer.ema.ema_model.eval()
        draws = {"DDIM, 250 evaluations": lambda n: cut(averaged.sample(batch_size=n) * 2 - 1)}
        for seconds in marks:
            started = time.perf_counter() - took
            with contextlib.suppress(TimeIsUp):
                trainer.train()
            yield Peer(trainer.step * trainer.batch_size, took, draws)


PEERS = {
    "ours": ours, "seed recipe": seed_recipe, "diffusers": diffusers, "denoising-diffusion-pytorch": denoising_diffusion_pytorch,
}


def drawn(draw: Draw, seconds: float) -> tuple[Tensor, float, int]:
    """Images drawn in `seconds` or a little more, at most MOST; seconds that each took in the largest batches; how large these
    were: twice as many each time, as long as a batch takes less than a tenth of the time."""
    batch, found, took = 8, [], []
    while sum(took) < seconds and sum(map(len, found)) < MOST:
        started = time.perf_counter()
        found.append(draw(min(batch, MOST - sum(map(len, found)))))
        took.append(time.perf_counter() - started)
        if took[-1] < seconds / 10:
            batch = min(2 * batch, LARGEST_BATCH)
    largest = max(map(len, found))
    full = [(len(some), t) for some, t in zip(found, took, strict=True) if len(some) == largest]
    return torch.cat(found), sum(t for _, t in full) / sum(n for n, _ in full), largest


def measured(peer: str, minutes: list[float], draw_minutes: float) -> Iterator[dict]:
    data = mnist()
    instrument, _ = classifier.load("models/classifier.safetensors")
    reference = frechet.load("reference/digits.npz", classifier.FEATURES)
    heldout = classifier.features(instrument, data.heldout_images)
    heldout = heldout[torch.randperm(len(heldout), generator=generator(0, "peers"))]

    def distance(features: Tensor) -> float:
        return frechet.distance(frechet.moments(features.numpy()), reference)

    real = provenance.tensors("arrays/features.safetensors")
    real = real["train"][real["drawn"]]
    torch.manual_seed(0)
    for after, found in zip(minutes, PEERS[peer](data, [60 * after for after in minutes]), strict=True):
        for name, draw in found.draws.items():
            some, each, batch = drawn(draw, 60 * draw_minutes)
            features, enough = classifier.features(instrument, some), len(some) >= ENOUGH
            yield {
                "peer": peer, "minutes": after, "sampler": name, "train_images_per_second": found.images / found.seconds,
                "images_seen": found.images, "train_seconds": found.seconds, "drawn": len(some),
                "precision": neighbours.manifolds(real, features).precision,
                "precision_of_real": neighbours.manifolds(real, heldout).precision,
                "fd_digits": distance(features) if enough else None,
                "fd_digits_of_as_many_real": distance(heldout[: len(some)]) if enough else None,
                "seconds_per_10000_images": 10_000 * each, "drawn_at_a_time": batch,
                "first": some[:SHOWN, 0].tolist(),
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10,  # up to here
            }


def picture(rows: list[dict], digits: list[list]) -> None:
    """A line of digits for each row, as text and lines of pixels."""
    figure, axes = plt.subplots(len(rows), 1, figsize=(8, 0.55 * len(rows)), squeeze=False, layout="constrained")
    for ax, row, line in zip(axes[:, 0], rows, digits, strict=True):
        ax.imshow(torch.cat(torch.tensor(line, dtype=torch.uint8).unbind(), dim=1), cmap="gray", vmin=0, vmax=255)
        ax.set_axis_off()
        name = f"{row['peer']}, {row['minutes']:g} min\n{row['sampler']}"
        ax.text(-0.02, 0.5, name, transform=ax.transAxes, ha="right", va="center", fontsize=7)
    figure.savefig(PICTURE, dpi=150, bbox_inches="tight")
    plt.close(figure)


def lasting(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def quality(row: dict) -> str:
    """Precision, of how many images, and the distance beside that of as many real ones, where it is told."""
    told = f"{row['precision']:.3f} of {row['drawn']:,}"
    if row["fd_digits"] is None:
        return told
    return f"{told}; {row['fd_digits']:.1f} ({row['fd_digits_of_as_many_real']:.1f})"


def markdown(found: dict) -> str:
    """The table of the README: a line for each sampler, its rates as medians over the counts of minutes."""
    lines = [
        ["", "sampler", "training, images/s", "10,000 images take", "peak memory", *(f"{m:g} min" for m in found["minutes"])],
        ["---"] * (5 + len(found["minutes"])),
    ]
    for peer, sampler in dict.fromkeys((row["peer"], row["sampler"]) for row in found["rows"]):
        rows = [row for row in found["rows"] if (row["peer"], row["sampler"]) == (peer, sampler)]
        rate = statistics.median(row["train_images_per_second"] for row in rows)
        took = statistics.median(row["seconds_per_10000_images"] for row in rows)
        peak, cells = max(row["peak_mib"] for row in rows), {row["minutes"]: quality(row) for row in rows}
        lines.append([
            peer, sampler, f"{rate:.1f}" if rate < 100 else f"{rate:,.0f}", lasting(took), f"{peak / 1024:.1f} GiB",
            *(cells.get(minutes, "") for minutes in found["minutes"]),
        ])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[5, 15, 30])
    parser.add_argument("--draw-minutes", type=float, default=1)
    parser.add_argument("--only", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--one", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--table", action="store_true", help="print the committed result as the table of the README")
    asked = parser.parse_args()
    if asked.table:
        print(markdown(json.loads(RESULT.read_text())))
        return
    asked.minutes.sort()
    if asked.one:
        for row in measured(asked.one, asked.minutes, asked.draw_minutes):
            print("\n" + json.dumps(row), flush=True)
        return
    rows: list[dict] = []
    digits: list[list] = []
    found = {"minutes": asked.minutes, "draw_minutes": asked.draw_minutes, "rows": rows, "failed": {}}
    found |= describe("torch", "diffusers", "denoising-diffusion-pytorch")
    for peer in asked.only:
        minutes = ["--minutes", *map(str, asked.minutes), "--draw-minutes", str(asked.draw_minutes)]
        command = [sys.executable, "-m", "benchmarks.peers", "--one", peer, *minutes]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in filter(lambda line: line.startswith("{"), process.stdout):
                rows.append(json.loads(line))
                digits.append(rows[-1].pop("first"))
                print(rows[-1], flush=True)
                picture(rows, digits)
                reports.write_json(RESULT, found)
        if process.returncode:
            found["failed"][peer] = process.returncode
            reports.write_json(RESULT, found)


if __name__ == "__main__":
    main()
