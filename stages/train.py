"""Train the denoising diffusion model; keep the best averaged weights and the last, the learning curve and previews."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from src import params
from src.common import artifact, dataset, device, reports
from src.common.errors import UserError
from src.common.files import replacing
from src.common.randomness import derive
from src.diffusion import denoiser
from src.diffusion.schedule import ScheduleConfig
from src.diffusion.unet import UNetConfig
from src.training import interruption
from src.training.checkpoint import Checkpoint
from src.training.preview import preview
from src.training.processes import Processes
from src.training.progress import Progress
from src.training.trainer import Step, Trainer, limited, loss_by_noise_level

PREVIEWS = Path("training_samples")


def main() -> None:
    p = params.load()
    data = dataset.load("arrays/dataset.safetensors")
    schedule = ScheduleConfig(p.schedule, p.timesteps, p.beta_start, p.beta_end, p.cosine_s)
    model = untrained(p.model, schedule, data, p.seed)
    settings, processes = limited(p.train, len(data.images)), Processes()
    trainer = Trainer(model, data.images, data.labels, settings, p.seed, device.best(), processes)
    if processes.first:
        describe(model, p.model.conditional)
        if settings.steps < p.train.steps:
            print(f"train: {settings.steps:,} steps: train.max_epochs ({p.train.max_epochs:g}) passes over the few images")
    guide_step = math.ceil(p.train.guide_at * settings.steps)

    PREVIEWS.mkdir(exist_ok=True)
    key = [
        p.seed, p.train.model_dump(), repr(model.config), artifact.digest("arrays/dataset.safetensors"),
        device.name(trainer.device), model.precision,
    ]
    checkpoint, progress = Checkpoint("train", key, processes.count), Progress()
    if saved := checkpoint.load():
        trainer.load_state_dict(saved.pop("trainer"))
        progress = Progress(**saved)
        if processes.first:
            progress.restore_previews(PREVIEWS)
            print(f"train: resuming after step {trainer.step}")

    if len(set(processes.gathered(f"{trainer.step} {data.fingerprint}"))) > 1:
        raise UserError(f"the processes do not see the same data and checkpoint: {checkpoint.path.parent} must be shared by them")

    def due(step: Step, interval: int) -> bool:
        return step.step % interval == 0 or step.step == settings.steps

    def look(step: Step) -> None:
        if step.step == guide_step:
            progress.guide = copy.deepcopy(trainer.averaged.unet.state_dict())
        evaluating, drawing = due(step, p.train.evaluate_interval), due(step, p.train.sample_interval)
        if evaluating and processes.first:
            levels = loss_by_noise_level(trainer.averaged, data.heldout_images, data.heldout_labels, p.seed)
            progress.evaluated(step, levels, trainer.averaged)
            reports.write_csv("plots/learning_curve.csv", progress.curve)
        if drawing and processes.first:
            path = PREVIEWS / f"step_{step.step:06d}.png"
            with replacing(path) as temporary:
                preview(trainer.averaged, p.seed).save(temporary, "PNG")
            progress.drew(path)
        progress.looked()
        if evaluating or drawing:
            heed(step)

    def save() -> None:
        checkpoint.save(vars(progress) | {"trainer": trainer.state_dict()})

    def heed(step: Step) -> None:
        if number := processes.largest(interrupted.signal or 0):
            leave(number, step, save, processes)

    bar = tqdm(
        trainer.run(), desc="train", unit="step", initial=trainer.step, total=settings.steps, disable=not processes.first
    )
    with interruption.noted() as interrupted:
        if progress.pending:
            look(Step(**progress.pending))
        for step in bar:
            progress.took(step)
            shown = {"loss": f"{step.loss:.4f}"}
            if rate := bar.format_dict["rate"]:  # not before its first display
                shown["images/s"] = f"{rate * settings.batch_size:.0f}"
            bar.set_postfix(shown, refresh=False)
            heed(step)
            look(step)
            if due(step, p.train.checkpoint_interval) and processes.first:
                save()
    if not processes.first:
        return

    def about(step: int, levels: torch.Tensor) -> dict:
        return data.describe() | {"class_counts": data.class_counts(), "step": step, "heldout_loss": float(levels.mean())}

    reports.write_csv("plots/learning_curve.csv", progress.curve)
    best, averaged = progress.best, trainer.averaged
    if progress.guide:
        averaged.guide = copy.deepcopy(averaged.unet)
        averaged.guide.load_state_dict(progress.guide)
    denoiser.save(averaged, "models/last.safetensors", about(trainer.step, progress.levels))
    averaged.unet.load_state_dict(best["weights"])
    denoiser.save(averaged, "models/model.safetensors", about(best["step"], best["levels"]))
    edges = [-(-i * p.timesteps // len(best["levels"])) for i in range(len(best["levels"]) + 1)]
    levels = [{"t_from": a, "t_to": b, "loss": float(x)} for a, b, x in zip(edges, edges[1:], best["levels"], strict=False)]
    reports.write_csv("plots/loss_by_noise_level.csv", levels)
    reports.write_json(
        "metrics/train.json",
        data.describe() | {
            "model": artifact.digest("models/model.safetensors"),
            "parameters": sum(weights.numel() for weights in model.unet.parameters()), "precision": model.precision,
            "steps": trainer.step, "best_step": best["step"], "heldout_loss": float(best["levels"].mean()),
        },
    )
    checkpoint.remove()


def leave(number: int, step: Step, save: Callable[[], None], processes: Processes) -> None:
    """End because of the signal `number`, with a checkpoint. Looking at the step, which may take seconds, is left for later."""
    started = time.monotonic()
    if processes.first:
        save()
        took = time.monotonic() - started
        print(
            f"\ntrain: interrupted, saved after step {step.step} in {took:.1f} s; `dvc repro` goes on from there", file=sys.stderr
        )
    processes.wait()
    sys.exit(128 + number)


def untrained(m: params.Model, schedule: ScheduleConfig, data: dataset.Dataset, seed: int) -> denoiser.Denoiser:
    """What params.yaml asks for, for images of this size and so many channels and classes, with random weights."""
    unet = UNetConfig(
        data.image_size, data.channels, data.classes if m.conditional else 0, m.patch_size, m.base_channels,
        tuple(m.multipliers), m.res_blocks, tuple(m.attention_resolutions), m.heads, m.dropout, m.time_width,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        return denoiser.Denoiser(denoiser.DenoiserConfig(unet, schedule, m.prediction, m.label_dropout))


def describe(model: denoiser.Denoiser, wanted_classes: bool) -> None:
    """Say what is about to be trained, above all where it is not what params.yaml asks for."""
    unet, sides = model.config.unet, model.config.unet.resolutions
    attention = [side for side in sides if side in unet.attention_resolutions]
    print(
        f"train: {sum(weights.numel() for weights in model.parameters()):,} parameters, feature maps of {sides}, attention at "
        f"{attention or f'none of them (params name {list(unet.attention_resolutions)})'}, {unet.classes or 'no'} classes"
    )
    if wanted_classes and not unet.classes:
        print("train: the data has no labels, so the model is unconditional although model.conditional is true")
    if (left := float(model.schedule.alpha_bar[-1])) > 1e-3:
        print(
            f"train: at the last timestep {left:.1%} of the signal's variance is left, while samplers start from noise alone: "
            f"expect odd images; more timesteps or a larger beta_end leave less"
        )
