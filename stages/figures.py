"""Draw the figures of the report from the results of the other stages."""

from __future__ import annotations

import torch

from src import images, manifest, params, provenance
from src.common.files import replacing
from src.diffusion.schedule import ScheduleConfig
from src.plotting import save
from src.show import animation, figures
from src.show.results import schedules_to_compare, sweep_floor

MIN_SIDE = 80  # pixels of an image in the animation


def main() -> None:
    p = params.load()
    drawn = manifest.load("generated/manifest.json")
    fid = provenance.read("metrics/fid.json", provenance.FidMetrics)
    sweep = provenance.read("metrics/sweep.json", provenance.SweepMetrics)
    provenance.expect("metrics/fid.json, its images", fid["pixels"], drawn.pixels)
    provenance.expect("metrics/fid.json, its model", fid["model"], drawn.model)
    provenance.expect("metrics/sweep.json, its model", sweep["model"], drawn.model)
    data = f"{drawn.dataset} ({drawn.dataset_fingerprint}), model {drawn.model}"
    note = f"{data}\n{drawn.sampler_text()}"
    dpi, shown = p.figures.dpi, p.figures.process_images

    states = provenance.trajectory("generated/trajectory.safetensors", len(drawn.timesteps))
    timesteps, columns = [*drawn.timesteps, None], p.figures.process_steps
    figure = figures.reverse_process(states, timesteps, shown, columns, note)
    save(figure, "figures/reverse_process.png", dpi)
    moving = states[:, :shown]
    with replacing("figures/reverse_process.gif") as temporary:
        scale = -(-MIN_SIDE // moving.shape[-1])
        temporary.write_bytes(animation.gif(moving, moving.shape[1], scale))

    generated = images.read("generated_images", drawn.count, pixels=drawn.pixels)
    labels = None if drawn.labels is None else torch.tensor(drawn.labels)
    floor = f"real held-out images: {fid['fd_digits_floor_heldout']:.2f}"
    scores = f"{note}\nfd_digits {fid['fd_digits']:.2f} ({floor})"
    per_class = p.figures.grid_per_class
    figure = figures.samples_by_class(generated, labels, drawn.names, per_class, scores)
    save(figure, "figures/samples_by_class.png", dpi)

    curve = provenance.table("plots/learning_curve.csv", figures.CURVE)
    figure = figures.learning_curve(curve, drawn.prediction, p.timesteps, data)
    save(figure, "figures/learning_curve.png", dpi)
    levels = provenance.table("plots/loss_by_noise_level.csv", figures.LEVELS)
    figure = figures.loss_by_noise_level(levels, drawn.prediction, data)
    save(figure, "figures/loss_by_noise_level.png", dpi)
    scored = provenance.table("plots/quality_over_steps.csv", figures.SWEEP)
    real, about = sweep_floor(sweep)
    figure = figures.quality_over_steps(scored, real, f"{about}\n{data}")
    save(figure, "figures/quality_over_steps.png", dpi)
    config = ScheduleConfig(p.schedule, p.timesteps, p.beta_start, p.beta_end, p.cosine_s)
    text = f"{p.timesteps} timesteps; {data}"
    figure = figures.schedules(schedules_to_compare(config), p.schedule, text)
    save(figure, "figures/schedules.png", dpi)
