"""Train the denoising diffusion model; keep the best averaged weights and the last, the learning curve and previews."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from tqdm import tqdm

from src import artifact, dataset, denoiser, device, params, reports
from src.checkpoint import Checkpoint
from src.preview import preview
from src.randomness import derive
from src.schedule import ScheduleConfig
from src.trainer import Trainer, limited, loss_by_noise_level
from src.unet import UNetConfig


def main() -> None:
    p = params.load()
    data = dataset.load("arrays/dataset.safetensors")
    schedule = ScheduleConfig(p.schedule, p.timesteps, p.beta_start, p.beta_end, p.cosine_s)
    unet = UNetConfig(
        data.image_size, data.channels, data.classes if p.model.conditional else 0, p.model.patch_size,
        p.model.base_channels, tuple(p.model.multipliers), p.model.res_blocks, tuple(p.model.attention_resolutions),
        p.model.heads, p.model.dropout, p.model.time_width,
    )
    config = denoiser.DenoiserConfig(unet, schedule, p.model.prediction, p.model.label_dropout)
    with torch.random.fork_rng():
        torch.manual_seed(derive(p.seed, "weights"))
        model = denoiser.Denoiser(config)
    settings = limited(p.train, len(data.images))
    trainer = Trainer(model, data.images, data.labels, settings, p.seed, device.best())
    if settings.steps < p.train.steps:
        print(f"train: {settings.steps:,} steps, which are train.max_epochs ({p.train.max_epochs:g}) passes over the few images")
    describe(config, model, p.model.conditional)

    def evaluate() -> torch.Tensor:
        return loss_by_noise_level(trainer.averaged, data.heldout_images, data.heldout_labels, p.seed)

    def about(step: int, levels: torch.Tensor) -> dict:
        return data.describe() | {"class_counts": data.class_counts(), "step": step, "heldout_loss": float(levels.mean())}

    previews = Path("training_samples")
    previews.mkdir(exist_ok=True)
    key = [
        p.seed, p.train.model_dump(), repr(config), artifact.digest("arrays/dataset.safetensors"), str(trainer.device),
        model.precision,
    ]
    checkpoint = Checkpoint("train", key)
    progress = {"curve": [], "losses": [], "levels": None, "best": None, "previews": {}}
    if saved := checkpoint.load():
        trainer.load_state_dict(saved.pop("trainer"))
        progress = saved
        print(f"train: resuming after step {trainer.step}")
        for name, content in progress["previews"].items():  # DVC has cleared the folder
            (previews / name).write_bytes(bytes(content.tolist()))

    bar = tqdm(trainer.run(), desc="train", unit="step", initial=trainer.step, total=settings.steps)
    for step in bar:
        progress["losses"].append(step.loss)
        bar.set_postfix(loss=f"{step.loss:.4f}", refresh=False)
        last = step.step == settings.steps
        if step.step % p.train.evaluate_interval == 0 or last:
            levels = progress["levels"] = evaluate()
            losses = progress["losses"]
            progress["curve"].append(
                {"step": step.step, "train_loss": sum(losses) / len(losses), "heldout_loss": float(levels.mean()), "lr": step.lr}
            )
            progress["losses"] = []
            reports.write_csv("plots/learning_curve.csv", progress["curve"])
            if progress["best"] is None or levels.mean() < progress["best"]["levels"].mean():
                weights = copy.deepcopy(trainer.averaged.state_dict())
                progress["best"] = {"step": step.step, "levels": levels, "weights": weights}
        if step.step % p.train.sample_interval == 0 or last:
            name = f"step_{step.step:06d}.png"
            preview(trainer.averaged, p.seed).save(previews / name)
            progress["previews"][name] = torch.frombuffer(bytearray((previews / name).read_bytes()), dtype=torch.uint8)
        if step.step % p.train.checkpoint_interval == 0 or last:
            checkpoint.save(progress | {"trainer": trainer.state_dict()})

    reports.write_csv("plots/learning_curve.csv", progress["curve"])
    denoiser.save(trainer.averaged, "models/last.safetensors", about(trainer.step, progress["levels"]))
    best = progress["best"]
    trainer.averaged.load_state_dict(best["weights"])
    denoiser.save(trainer.averaged, "models/model.safetensors", about(best["step"], best["levels"]))
    edges = [i * p.timesteps // len(best["levels"]) for i in range(len(best["levels"]) + 1)]
    levels = [{"t_from": a, "t_to": b, "loss": float(x)} for a, b, x in zip(edges, edges[1:], best["levels"], strict=False)]
    reports.write_csv("plots/loss_by_noise_level.csv", levels)
    reports.write_json(
        "metrics/train.json",
        data.describe() | {
            "parameters": sum(weights.numel() for weights in model.parameters()), "precision": model.precision,
            "steps": trainer.step,
            "best_step": best["step"], "heldout_loss": float(best["levels"].mean()),
        },
    )
    checkpoint.remove()


def describe(config: denoiser.DenoiserConfig, model: torch.nn.Module, wanted_classes: bool) -> None:
    """Say what is about to be trained, above all where it is not what params.yaml asks for."""
    unet, sides = config.unet, config.unet.resolutions
    attention = [side for side in sides if side in unet.attention_resolutions]
    print(
        f"train: {sum(weights.numel() for weights in model.parameters()):,} parameters, feature maps of {sides}, attention at "
        f"{attention or f'none of them (params name {list(unet.attention_resolutions)})'}, {unet.classes or 'no'} classes"
    )
    if wanted_classes and not unet.classes:
        print("train: the data has no labels, so the model is unconditional although model.conditional is true")
