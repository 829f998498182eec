"""Compare ours with other implementations after equal training times.

    python -m benchmarks.peers [--minutes 5 15] [--draw-minutes 2] [--only NAME ...]

All run on the same machine, one process after another, with the same MNIST training images and the
same minutes:

ours           The settings of params.yaml, with as many steps as fit.
homework recipe
               The network and sampler of a homework (base 128, multipliers 1-2-4, epsilon, linear,
               Adam 2e-4, 50 steps of DDIM), trained by our trainer. It has batches of 128 and 120
               epochs, and the learning rate falls to zero. It averages weights as ours does, not
               with a decay of 0.995. It uses bfloat16 on processors that are faster in it.
diffusers      UNet2DModel and the defaults of the script for unconditional training. It draws with
               its DDIM pipeline in 50 steps, its default, and with DPM-Solver++ in 20.
denoising-diffusion-pytorch
               The Unet of its README and its own Trainer. It draws with its DDIM in 250 steps.

The last two compute in float32, their default. They get images of 32x32, which is MNIST with a
margin, because their networks halve the side three or five times. They use one channel and no
flips. All else is their default. They are made for hours on a GPU: the results show what two cores
can do, not what these projects can do. Ours and the homework recipe keep freed memory, as our
stages do. Our learning rate falls to zero at the end, so each number of minutes needs its own
training.
The others are trained once and evaluated at each mark.

After each mark, each peer draws for `--draw-minutes`, at most 10,000 images. Precision is valid for
any number of images. The table also has the precision of real test digits. With 512 images or more
it has `fd_digits`, and the `fd_digits` of as many real digits. The measured rate gives the seconds
for 10,000 images. Peak memory is that of the whole process so far, including the images of this
benchmark.

Needs arrays/, models/classifier.safetensors and reference/ of a run on MNIST. After each row it
writes benchmarks/results/peers.json and docs/pictures/peers.png (the first digits of each peer),
with the results of this call only. --keep FOLDER also writes all digits as PNGs, for `make score`.
--table prints the committed result, as in docs/results.md.
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

from benchmarks.own import changed, mnist, trained, untrained
from benchmarks.tables import duration, table
from src import classifier, drawing, images, params, provenance
from src.common import dataset, reports, torchvision_remedy  # noqa: F401 (before diffusers)
from src.common.allocator import keep_freed_memory
from src.common.randomness import generator
from src.diffusion.denoiser import Denoiser
from src.diffusion.samplers import Sampler
from src.measure import frechet, neighbours
from src.training.trainer import Trainer
from tools.machine import describe

RESULT, PICTURE = Path("benchmarks/results/peers.json"), Path("docs/pictures/peers.png")
Draw = Callable[[int], Tensor]  # draws so many further images: uint8 (B, 1, 28, 28)
SIDE, MARGIN = 28, 2
MOST = 10_000  # images to draw
LARGEST_BATCH = 512
ENOUGH = 512  # least number of images for a distance
SHOWN = 8  # images in the picture

HOMEWORK = {
    "schedule": "linear",
    "model": {
        "patch_size": 1,
        "base_channels": 128,
        "multipliers": [1, 2, 4],
        "prediction": "epsilon",
        "conditional": False,
        "attention_resolutions": [14, 7],
        "heads": 4,
        "time_width": 512,
    },
    "train": {
        "lr": 2e-4,
        "muon_lr": None,
        "weight_decay": 0.0,
        "warmup_steps": 0,
        "times": "uniform",
    },
    "sample": {
        "method": "ddim",
        "steps": 50,
        "spacing": "leading",
        "eta": 0.0,
        "guidance": 1.0,
        "autoguidance": 1.0,
    },
}


class TimeIsUp(Exception):
    pass


@dataclass(frozen=True)
class Peer:
    """A model after `seconds` of training. Only valid until the next one is yielded."""

    images: int  # seen in training
    seconds: float
    draws: dict[str, Draw]  # by name of the sampler


def padded(data: dataset.Dataset) -> Tensor:
    """The training images with a margin: float32 (N, 1, 32, 32) in [-1, 1]."""
    return F.pad(dataset.to_float(data.images), [MARGIN] * 4, value=-1)


def cut(x: Tensor) -> Tensor:
    """Cut the margin from images in [-1, 1]. Returns uint8 pixels."""
    return dataset.to_pixels(x)[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]


# --- ours, and a homework's recipe ----------------------------------------------------------------


def own_draw(model: Denoiser, sampler: Sampler, seed: int, data: dataset.Dataset) -> Draw:
    counts = data.class_counts() if model.conditional else []
    labels = drawing.choose_labels(None, counts, seed, 2 * MOST)
    done = 0

    def draw(count: int) -> Tensor:
        nonlocal done
        first, done = done + 1, done + count
        size = -(-count // torch.get_num_threads())  # a batch for each core
        starts = range(first, first + count, size)
        parts = [range(start, min(start + size, first + count)) for start in starts]
        batches = drawing.batches(model, sampler, seed, labels, parts)
        return torch.cat([batch.images for batch in batches])

    return draw


def own_draws(p: params.Params, model: Denoiser, data: dataset.Dataset) -> dict[str, Draw]:
    sampler = drawing.fitted(p.sample.sampler, model)
    name = f"{sampler.method}, {sampler.evaluations(model)} evaluations"
    return {name: own_draw(model, sampler, p.sample.seed, data)}


def ours(data: dataset.Dataset, marks: list[float]) -> Iterator[Peer]:
    p = params.load()
    for seconds in marks:
        run = trained(p, data, seconds)
        yield Peer(run.images, run.seconds, own_draws(p, run.model, data))


def homework_recipe(data: dataset.Dataset, marks: list[float]) -> Iterator[Peer]:
    train = HOMEWORK["train"] | {"steps": 120 * len(data.images) // 128}
    p = changed(params.load(), HOMEWORK | {"train": train})
    keep_freed_memory()
    trainer = Trainer(untrained(p, data), data.images, data.labels, p.train, p.seed, "cpu")
    steps, elapsed = trainer.run(), 0.0
    for seconds in marks:
        started = time.perf_counter() - elapsed
        while elapsed < seconds:
            next(steps)
            elapsed = time.perf_counter() - started
        seen = trainer.step * p.train.batch_size
        yield Peer(seen, elapsed, own_draws(p, trainer.averaged, data))


# --- others ---------------------------------------------------------------------------------------


class Diffusers:
    """UNet2DModel, trained as in the script of diffusers for unconditional training."""

    batch = 16

    def __init__(self, data: dataset.Dataset):
        from diffusers import (
            DDIMPipeline,
            DDIMScheduler,
            DDPMScheduler,
            DPMSolverMultistepScheduler,
            UNet2DModel,
        )
        from diffusers.optimization import get_scheduler

        self.x, self.random = padded(data), generator(0, "diffusers")
        self.unet = UNet2DModel(
            sample_size=SIDE + 2 * MARGIN,
            in_channels=1,
            out_channels=1,
            layers_per_block=2,
            block_out_channels=(128, 128, 256, 256, 512, 512),
            down_block_types=[*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
            up_block_types=["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
        )
        self.noise = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
        self.optimizer = torch.optim.AdamW(
            self.unet.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
        )
        steps = 100 * len(data.images) // self.batch
        self.rate = get_scheduler(
            "cosine", self.optimizer, num_warmup_steps=500, num_training_steps=steps
        )
        self.pipeline = DDIMPipeline(self.unet, DDIMScheduler.from_config(self.noise.config))
        self.pipeline.set_progress_bar_config(disable=True)
        self.solver_class = DPMSolverMultistepScheduler

    def step(self) -> None:
        x0 = self.x[torch.randint(len(self.x), (self.batch,), generator=self.random)]
        eps = torch.randn(x0.shape, generator=self.random)
        t = torch.randint(1000, (self.batch,), generator=self.random)
        loss = F.mse_loss(self.unet(self.noise.add_noise(x0, eps, t), t).sample, eps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        self.rate.step()
        self.optimizer.zero_grad()

    def ddim(self, count: int) -> Tensor:
        # (B, H, W, 1) in [0, 1]
        pixels = self.pipeline(batch_size=count, generator=self.random, output_type="np").images
        return cut(torch.from_numpy(pixels).permute(0, 3, 1, 2) * 2 - 1)

    @torch.inference_mode()
    def dpm(self, count: int) -> Tensor:
        solver = self.solver_class.from_config(self.noise.config)
        solver.set_timesteps(20)
        side = SIDE + 2 * MARGIN
        x = torch.randn(count, 1, side, side, generator=self.random)
        for t in solver.timesteps:
            x = solver.step(self.unet(x, t).sample, t, x).prev_sample
        return cut(x)


def diffusers(data: dataset.Dataset, marks: list[float]) -> Iterator[Peer]:
    peer = Diffusers(data)
    seen, elapsed = 0, 0.0
    for seconds in marks:
        peer.unet.train()
        started = time.perf_counter() - elapsed
        while elapsed < seconds:
            peer.step()
            seen, elapsed = seen + peer.batch, time.perf_counter() - started
        peer.unet.eval()
        draws = {
            "DDIMPipeline, 50 evaluations": peer.ddim,
            "DPM-Solver++, 20 evaluations": peer.dpm,
        }
        yield Peer(seen, elapsed, draws)


def denoising_diffusion_pytorch(data: dataset.Dataset, marks: list[float]) -> Iterator[Peer]:
    """The Unet of its README in its own Trainer, which an exception stops when the time is up."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from denoising_diffusion_pytorch import Trainer as TheirTrainer

    unet, side = Unet(dim=64, dim_mults=(1, 2, 4, 8), channels=1), SIDE + 2 * MARGIN
    diffusion = GaussianDiffusion(unet, image_size=side, timesteps=1000, sampling_timesteps=250)
    with tempfile.TemporaryDirectory() as folder:
        images.write(folder, 1, dataset.to_pixels(padded(data)))
        trainer = TheirTrainer(
            diffusion,
            folder,
            augment_horizontal_flip=False,
            calculate_fid=False,
            results_folder=f"{folder}/results",
            save_and_sample_every=10**9,  # never, because it would take time from training
        )
        update = trainer.ema.update
        elapsed = seconds = started = 0.0

        def update_and_check_time() -> None:  # their Trainer calls this last in each step
            nonlocal elapsed
            update()
            elapsed = time.perf_counter() - started
            if elapsed > seconds:
                raise TimeIsUp

        trainer.ema.update = update_and_check_time
        averaged = trainer.ema.ema_model.eval()
        draws = {"DDIM, 250 evaluations": lambda n: cut(averaged.sample(batch_size=n) * 2 - 1)}
        for seconds in marks:
            started = time.perf_counter() - elapsed
            with contextlib.suppress(TimeIsUp):
                trainer.train()
            yield Peer(trainer.step * trainer.batch_size, elapsed, draws)


PEERS = {
    "ours": ours,
    "homework recipe": homework_recipe,
    "diffusers": diffusers,
    "denoising-diffusion-pytorch": denoising_diffusion_pytorch,
}


# --- what they draw -------------------------------------------------------------------------------


def drawn(draw: Draw, seconds: float) -> tuple[Tensor, float, int]:
    """Draw for `seconds` or a little more, at most MOST images.

    Returns the images, the seconds per image in the largest batches, and the size of these batches.
    The batch size doubles while a batch takes less than a tenth of the time.
    """
    size = 8
    batches: list[Tensor] = []
    times: list[float] = []
    while sum(times) < seconds and sum(map(len, batches)) < MOST:
        started = time.perf_counter()
        batches.append(draw(min(size, MOST - sum(map(len, batches)))))
        times.append(time.perf_counter() - started)
        if times[-1] < seconds / 10:
            size = min(2 * size, LARGEST_BATCH)
    largest = max(map(len, batches))
    full = [t for batch, t in zip(batches, times, strict=True) if len(batch) == largest]
    return torch.cat(batches), sum(full) / (largest * len(full)), largest


def measured(
    peer: str, minutes: list[float], draw_minutes: float, keep: Path | None
) -> Iterator[dict]:
    """Train the peer. Yields a row for each of its samplers after each mark.

    Writes its digits into a folder in `keep`.
    """
    data = mnist()
    instrument, _ = classifier.load("models/classifier.safetensors")
    reference = frechet.load("reference/digits.npz", classifier.FEATURES)
    heldout = classifier.features(instrument, data.heldout_images)
    heldout = heldout[torch.randperm(len(heldout), generator=generator(0, "peers"))]
    real = provenance.tensors("arrays/features.safetensors")
    real = real["train"][real["drawn"]]

    def distance(features: Tensor) -> float:
        return frechet.distance(frechet.moments(features.numpy()), reference)

    torch.manual_seed(0)
    marks = [60 * mark for mark in minutes]
    for mark, state in zip(minutes, PEERS[peer](data, marks), strict=True):
        for name, draw in state.draws.items():
            pixels, seconds, batch = drawn(draw, 60 * draw_minutes)
            if keep:
                folder = keep / f"{peer}, {name}, {mark:g} minutes"
                folder.mkdir(parents=True)
                images.write(folder, 1, pixels)
            features, enough = classifier.features(instrument, pixels), len(pixels) >= ENOUGH
            as_many_real = heldout[: len(pixels)]
            yield {
                "peer": peer,
                "minutes": mark,
                "sampler": name,
                "train_images_per_second": state.images / state.seconds,
                "images_seen": state.images,
                "train_seconds": state.seconds,
                "drawn": len(pixels),
                "precision": neighbours.manifolds(real, features).precision,
                "precision_of_real": neighbours.manifolds(real, heldout).precision,
                "fd_digits": distance(features) if enough else None,
                "fd_digits_of_as_many_real": distance(as_many_real) if enough else None,
                "seconds_per_10000_images": 10_000 * seconds,
                "drawn_at_a_time": batch,
                "first": pixels[:SHOWN, 0].tolist(),
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10,
            }


# --- what is shown --------------------------------------------------------------------------------


def picture(rows: list[dict], digits: list[list]) -> None:
    """Draw PICTURE, with a line of digits for each row."""
    size = (8, 0.55 * len(rows))
    figure, axes = plt.subplots(len(rows), 1, figsize=size, squeeze=False, layout="constrained")
    for axis, row, line in zip(axes[:, 0], rows, digits, strict=True):
        pixels = torch.cat(torch.tensor(line, dtype=torch.uint8).unbind(), dim=1)
        axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        axis.set_axis_off()
        name = f"{row['peer']}, {row['minutes']:g} min\n{row['sampler']}"
        axis.text(-0.02, 0.5, name, transform=axis.transAxes, ha="right", va="center", fontsize=7)
    figure.savefig(PICTURE, dpi=150, bbox_inches="tight")
    plt.close(figure)


def quality(row: dict) -> str:
    """Precision and number of images. Then, if known, the distance and that of real images."""
    precision = f"{row['precision']:.3f} of {row['drawn']:,}"
    if row["fd_digits"] is None:
        return precision
    return f"{precision}; {row['fd_digits']:.1f} ({row['fd_digits_of_as_many_real']:.1f})"


def markdown(result: dict) -> str:
    """The table in docs/results.md: a line per sampler. Its rates are medians over the marks."""
    minutes = result["minutes"]
    head = ["", "sampler", "training, images/s", "10,000 images take", "peak memory"]
    head += [f"{mark:g} min" for mark in minutes]
    lines = []
    for peer, sampler in dict.fromkeys((row["peer"], row["sampler"]) for row in result["rows"]):
        rows = [row for row in result["rows"] if (row["peer"], row["sampler"]) == (peer, sampler)]
        rate = statistics.median(row["train_images_per_second"] for row in rows)
        seconds = statistics.median(row["seconds_per_10000_images"] for row in rows)
        peak = max(row["peak_mib"] for row in rows)
        cells = {row["minutes"]: quality(row) for row in rows}
        lines.append(
            [
                peer,
                sampler,
                f"{rate:.1f}" if rate < 100 else f"{rate:,.0f}",
                duration(seconds),
                f"{peak / 1024:.1f} GiB",
                *(cells.get(mark, "") for mark in minutes),
            ]
        )
    return table(head, lines)


def compare(arguments: argparse.Namespace) -> None:
    """Run each peer in its own process. Writes RESULT and PICTURE after each row."""
    rows: list[dict] = []
    digits: list[list] = []
    result = {"minutes": arguments.minutes, "draw_minutes": arguments.draw_minutes}
    result |= {"rows": rows, "failed": {}}
    result |= describe("torch", "diffusers", "denoising-diffusion-pytorch")
    marks = ["--minutes", *map(str, arguments.minutes)]
    marks += ["--draw-minutes", str(arguments.draw_minutes)]
    if arguments.keep:
        marks += ["--keep", str(arguments.keep)]
    for peer in arguments.only:
        command = [sys.executable, "-m", "benchmarks.peers", "--one", peer, *marks]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in filter(lambda line: line.startswith("{"), process.stdout):
                rows.append(json.loads(line))
                digits.append(rows[-1].pop("first"))
                print(rows[-1], flush=True)
                picture(rows, digits)
                reports.write_json(RESULT, result)
        if process.returncode:
            result["failed"][peer] = process.returncode
            reports.write_json(RESULT, result)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, nargs="+", default=[5, 15])
    parser.add_argument("--draw-minutes", type=float, default=2)
    parser.add_argument("--only", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    parser.add_argument("--one", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--table", action="store_true", help="print the committed result, as in docs/results.md"
    )
    arguments = parser.parse_args()
    if arguments.table:
        print(markdown(json.loads(RESULT.read_text())))
        return
    arguments.minutes.sort()
    if arguments.one:
        settings = arguments.minutes, arguments.draw_minutes, arguments.keep
        for row in measured(arguments.one, *settings):
            print("\n" + json.dumps(row), flush=True)
        return
    compare(arguments)


if __name__ == "__main__":
    main()
