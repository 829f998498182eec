"""`python -m benchmarks.peers [--minutes 5] [--draw-minutes 1] [--only NAME ...]`: the same minutes of training, we and others.

Same machine, same MNIST training images, same minutes, one process after another:

ours                      the defaults of params.yaml, with as many steps as fit
seed recipe               a homework's model (base 128, multipliers 1-2-4, epsilon, linear, Adam 2e-4, 50 steps of DDIM), in
                          our parameters
diffusers                 UNet2DModel and the defaults of its script for unconditional training; its DDIM pipeline with its 50
                          steps, and DPM-Solver++ with 20
denoising-diffusion-pytorch   the Unet of its README and its own Trainer; its DDIM with 250 steps

The last two get 32x32 images, MNIST's with a margin, since their networks halve the side three or five times, no flips, and a
single channel; all else is their default. Then each draws for `--draw-minutes`, at most 10,000 images. `fd_digits` of few images
is high, so each stands beside that of as many real test digits. Seconds for 10,000 images are of the rate so measured.

Needs arrays/, models/classifier.safetensors and reference/ of a run on MNIST. Writes benchmarks/results/peers.json.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.machine import describe
from src import classifier, dataset, drawing, frechet, images, params, torchvision_remedy  # noqa: F401 (before diffusers)
from src.denoiser import Denoiser, DenoiserConfig
from src.randomness import generator
from src.schedule import ScheduleConfig
from src.trainer import Trainer
from stages.train import network

RESULT = Path("benchmarks/results/peers.json")
Draw = Callable[[int], Tensor]  # so many images more: uint8 (B, 1, 28, 28)
SIDE, MARGIN = 28, 2


class TimeIsUp(Exception):
    pass


def padded(data: dataset.Dataset) -> Tensor:
    """float32 (N, 1, 32, 32) in [-1, 1]."""
    return F.pad(dataset.to_float(data.images), [MARGIN] * 4, value=-1)


def cut(x: Tensor) -> Tensor:
    """The middle of 32x32 images in [-1, 1], as pixels."""
    return dataset.to_pixels(x)[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]


def own(
    data: dataset.Dataset, seconds: float, sampler: drawing.Sampler, model: dict, train: dict, top: dict
) -> tuple[int, dict[str, Draw]]:
    """Images seen, and what draws, of params.yaml with these changes; as many steps as fit, by the time of the first ones."""
    p = params.load()
    p = p.model_copy(update=top | {"model": p.model.model_copy(update=model), "train": p.train.model_copy(update=train)})
    schedule = ScheduleConfig(p.schedule, p.timesteps, p.beta_start, p.beta_end, p.cosine_s)

    def trainer(settings: params.Train) -> Trainer:
        torch.manual_seed(0)
        config = DenoiserConfig(network(p.model, data), schedule, p.model.prediction, p.model.label_dropout)
        return Trainer(Denoiser(config), data.images, data.labels, settings, 0, "cpu")

    started, steps = time.perf_counter(), trainer(p.train).run()
    for i in range(12):
        if i == 2:
            warm = time.perf_counter()
        next(steps)
    each = (time.perf_counter() - warm) / 10
    settings = p.train.model_copy(update={"steps": max(1, int((seconds - (time.perf_counter() - started)) / each))})
    trained, guide = trainer(settings), None
    for step in trained.run():
        if step.step == max(1, round(settings.guide_at * settings.steps)):
            guide = {name: value.clone() for name, value in trained.averaged.unet.state_dict().items()}
    averaged, drawn = trained.averaged, [0]
    if sampler.autoguidance != 1:
        averaged.guide = copy.deepcopy(averaged.unet)
        averaged.guide.load_state_dict(guide)
    labels = drawing.choose_labels(None, data.class_counts() if averaged.conditional else [], 0, 100_000)

    def draw(count: int) -> Tensor:
        first, drawn[0] = drawn[0] + 1, drawn[0] + count
        parts = [range(n, min(n + 250, first + count)) for n in range(first, first + count, 250)]
        return torch.cat([batch.images for batch in drawing.batches(averaged, sampler, 0, labels, parts)])

    name = f"{sampler.method}, {sampler.evaluations(averaged)} evaluations"
    return settings.steps * settings.batch_size, {name: draw}


def ours(data: dataset.Dataset, seconds: float) -> tuple[int, dict[str, Draw]]:
    s = params.load().sample
    sampler = drawing.Sampler(
        s.method, s.steps, s.spacing, s.eta, s.guidance, s.guidance_interval, s.autoguidance, s.autoguidance_interval
    )
    return own(data, seconds, sampler, {}, {}, {})


def seed_recipe(data: dataset.Dataset, seconds: float) -> tuple[int, dict[str, Draw]]:
    model = {
        "patch_size": 1, "base_channels": 128, "multipliers": [1, 2, 4], "prediction": "epsilon", "conditional": False,
        "attention_resolutions": [14, 7], "heads": 4, "time_width": 512,
    }
    train = {
        "lr": 2e-4, "muon_lr": None, "weight_decay": 0.0, "warmup_steps": 0, "focus": 0.0, "augment_rotation": 0.0,
        "augment_shift": 0.0,
    }
    return own(data, seconds, drawing.Sampler("ddim", 50, "leading"), model, train, {"schedule": "linear"})


def diffusers(data: dataset.Dataset, seconds: float) -> tuple[int, dict[str, Draw]]:
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
    x, random, started, seen = padded(data), generator(0, "diffusers"), time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        x0 = x[torch.randint(len(x), (batch,), generator=random)]
        eps, t = torch.randn(x0.shape, generator=random), torch.randint(1000, (batch,), generator=random)
        loss = F.mse_loss(unet(noise.add_noise(x0, eps, t), t).sample, eps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        seen += batch
    unet.eval()
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

    return seen, {"DDIMPipeline, 50 evaluations": ddim, "DPM-Solver++, 20 evaluations": dpm}


def denoising_diffusion_pytorch(data: dataset.Dataset, seconds: float) -> tuple[int, dict[str, Draw]]:
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from denoising_diffusion_pytorch import Trainer as TheirTrainer

    model = Unet(dim=64, dim_mults=(1, 2, 4, 8), channels=1)
    diffusion = GaussianDiffusion(model, image_size=SIDE + 2 * MARGIN, timesteps=1000, sampling_timesteps=250)
    with tempfile.TemporaryDirectory() as folder:
        images.write(folder, 1, dataset.to_pixels(padded(data)))
        trainer = TheirTrainer(
            diffusion, folder, augment_horizontal_flip=False, calculate_fid=False, results_folder=f"{folder}/results"
        )
        update, end = trainer.ema.update, time.perf_counter() + seconds

        def heed_the_time() -> None:
            update()
            if time.perf_counter() > end:
                raise TimeIsUp

        trainer.ema.update = heed_the_time
        with contextlib.suppress(TimeIsUp):
            trainer.train()
    averaged = trainer.ema.ema_model.eval()
    return trainer.step * trainer.batch_size, {"DDIM, 250 evaluations": lambda n: cut(averaged.sample(batch_size=n) * 2 - 1)}


PEERS = {
    "ours": ours, "seed recipe": seed_recipe, "diffusers": diffusers, "denoising-diffusion-pytorch": denoising_diffusion_pytorch,
}


def drawn(draw: Draw, seconds: float) -> tuple[Tensor, float]:
    """Images drawn in `seconds` or a little more, at most 10,000, and seconds that each took."""
    draw(8)  # warms up
    started = time.perf_counter()
    draw(8)
    each = (time.perf_counter() - started) / 8
    count = max(8, min(10_000, int(seconds / each)))
    found, started = [], time.perf_counter()
    while sum(map(len, found)) < count and time.perf_counter() - started < seconds:
        found.append(draw(min(250, count - sum(map(len, found)))))
    some = torch.cat(found)
    return some, (time.perf_counter() - started) / len(some)


def measured(peer: str, minutes: float, draw_minutes: float) -> Iterator[dict]:
    data = dataset.load("arrays/dataset.safetensors")
    instrument, _ = classifier.load("models/classifier.safetensors")
    reference = frechet.load("reference/digits.npz", classifier.FEATURES)
    heldout = classifier.features(instrument, data.heldout_images)
    heldout = heldout[torch.randperm(len(heldout), generator=generator(0, "peers"))]
    started = time.perf_counter()
    seen, draws = PEERS[peer](data, 60 * minutes)
    took = time.perf_counter() - started
    for name, draw in draws.items():
        some, each = drawn(draw, 60 * draw_minutes)
        yield {
            "peer": peer, "sampler": name, "train_images_per_second": seen / took, "images_seen": seen, "drawn": len(some),
            "fd_digits": frechet.distance(frechet.moments(classifier.features(instrument, some).numpy()), reference),
            "fd_digits_of_as_many_real": frechet.distance(frechet.moments(heldout[: len(some)].numpy()), reference),
            "seconds_per_10000_images": 10_000 * each,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--draw-minutes", type=float, default=1)
    parser.add_argument("--only", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--one", choices=PEERS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print("\n" + json.dumps(list(measured(asked.one, asked.minutes, asked.draw_minutes))))
        return
    rows = []
    for peer in asked.only:
        minutes = ["--minutes", str(asked.minutes), "--draw-minutes", str(asked.draw_minutes)]
        command = [sys.executable, "-m", "benchmarks.peers", "--one", peer, *minutes]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows += json.loads(done.stdout.splitlines()[-1])
        found = {"minutes": asked.minutes, "draw_minutes": asked.draw_minutes, "rows": rows}
        found |= describe("torch", "diffusers", "denoising-diffusion-pytorch")
        RESULT.write_text(json.dumps(found, indent=2) + "\n")
        for row in rows[-2:]:
            print(row, flush=True)


if __name__ == "__main__":
    main()
