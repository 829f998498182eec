"""Train the diffusion model. Writes the best and the last averaged weights, curves and previews."""

from __future__ import annotations

from pathlib import Path

from src import params
from src.common import artifact, dataset, device
from src.common.processes import Processes
from src.diffusion.schedule import ScheduleConfig
from src.training.session import Outputs, Session
from src.training.setup import describe, untrained
from src.training.trainer import Trainer, limited

OUTPUTS = Outputs(
    model=Path("models/model.safetensors"),
    last=Path("models/last.safetensors"),
    previews=Path("training_samples"),
    curve=Path("plots/learning_curve.csv"),
    levels=Path("plots/loss_by_noise_level.csv"),
    metrics=Path("metrics/train.json"),
)


def main() -> None:
    p = params.load()
    data = dataset.load("arrays/dataset.safetensors")
    schedule = ScheduleConfig(p.schedule, p.timesteps, p.beta_start, p.beta_end, p.cosine_s)
    model = untrained(p.model, schedule, data, p.seed)
    settings, processes = limited(p.train, len(data.images)), Processes()
    trainer = Trainer(model, data.images, data.labels, settings, p.seed, device.best(), processes)
    if processes.first:
        for line in describe(model, p.model):
            print(f"train: {line}")
        if p.train.times == "auto":
            print(f"train: picks times by {trainer.batches.times} (auto)")
        if settings.steps < p.train.steps:
            print(
                f"train: only {settings.steps:,} steps, since train.max_epochs "
                f"({p.train.max_epochs:g}) limits the passes over the images"
            )
    digest = artifact.digest("arrays/dataset.safetensors")
    Session(trainer, data, p.train, p.seed, digest, OUTPUTS).run()
