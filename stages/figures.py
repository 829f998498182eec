"""Draw the figures of the report from the results of the other stages."""

from __future__ import annotations

import torch

from src import images, manifest, params, provenance
from src.common.files import replacing
from src.diffusion.schedule import ScheduleConfig
from src.plotting import save
from src.show import animation, figures
from src.show.results import distances, schedules_to_compare, sweep_floors

MIN_SIDE = 80  # pixels of an image in the animation


def main() -> None:
    p = params.load()
    drawn = manifest.load("generated/manifest.json")
    fid = provenance.read("metrics/fid.json", provenance.FidMetrics)
    fidelity = provenance.read("metrics/fidelity.json", provenance.FidelityMetrics)
    sweep = provenance.read("metrics/sweep.json", provenance.SweepMetrics)
    provenance.expect("metrics/fid.json, its images", fid["pixels"], drawn.pixels)
    models = {"fid": fid["model"], "fidelity": fidelity["model"], "sweep": sweep["model"]}
    for name, model in models.items():
        provenance.expect(f"metrics/{name}.json, its model", model, drawn.model)
    data = f"{drawn.dataset} ({drawn.dataset_fingerprint}), model {drawn.model}"
    note = f"{data}\n{drawn.sampler_text()}"
    drawings = {}
    shown, columns = p.figures.process_images, p.figures.process_steps
    states = provenance.trajectory("generated/trajectory.safetensors", len(drawn.timesteps))
    timesteps = [*drawn.timesteps, None]
    drawings["reverse_process"] = figures.reverse_process(states, timesteps, shown, columns, note)
    moving = states[:, :shown]
    with replacing("figures/reverse_process.gif") as temporary:
        scale = -(-MIN_SIDE // moving.shape[-1])
        temporary.write_bytes(animation.gif(moving, moving.shape[1], scale))

    generated = images.read("generated_images", drawn.count, pixels=drawn.pixels)
    labels = None if drawn.labels is None else torch.tensor(drawn.labels)
    scores, columns = f"{note}\n{distances(fid)}", p.figures.grid_per_class
    figure = figures.samples_by_class(generated, labels, drawn.names, columns, scores)
    drawings["samples_by_class"] = figure
    curve = provenance.table("plots/learning_curve.csv", figures.CURVE)
    figure = figures.learning_curve(curve, drawn.prediction, p.timesteps, data)
    drawings["learning_curve"] = figure
    levels = provenance.table("plots/loss_by_noise_level.csv", figures.LEVELS)
    drawings["loss_by_noise_level"] = figures.loss_by_noise_level(levels, drawn.prediction, data)
    levels = provenance.table("plots/fidelity_by_noise_level.csv", figures.FIDELITY)
    about, real = f"{fidelity['images']:,} images\n{note}", fidelity["fd_imagenet_real"]
    drawings["fidelity_by_noise_level"] = figures.fidelity_by_noise_level(levels, real, about)
    scored = provenance.table("plots/quality_over_steps.csv", figures.SWEEP)
    floors, about = sweep_floors(sweep)
    figure = figures.quality_over_steps(scored, floors, f"{about}\n{data}")
    drawings["quality_over_steps"] = figure
    config = ScheduleConfig(p.schedule, p.timesteps, p.beta_start, p.beta_end, p.cosine_s)
    about = f"{p.timesteps} timesteps; {data}"
    drawings["schedules"] = figures.schedules(schedules_to_compare(config), p.schedule, about)
    for name, figure in drawings.items():
        save(figure, f"figures/{name}.png", p.figures.dpi)
