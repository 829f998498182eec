"""Draw the figures of the report from what the other stages left."""

from __future__ import annotations

import torch

from src import figures, images, params, pictures, provenance
from src.common.errors import UserError
from src.common.files import replacing
from src.diffusion.schedule import Schedule, ScheduleConfig


def main() -> None:
    p = params.load()
    manifest = provenance.manifest("generated/manifest.json")
    metrics = provenance.read("metrics/fid.json", ("model", "pixels", "fd_digits", "fd_digits_floor_heldout"))
    swept = provenance.read(
        "metrics/sweep.json", ("model", "images", "floor_heldout_sets", "fd_digits_floor_heldout", "fd_digits_floor_heldout_sd")
    )
    provenance.expect("metrics/fid.json, its images", metrics["pixels"], manifest["pixels"])
    for name, of in (("fid", metrics), ("sweep", swept)):
        provenance.expect(f"metrics/{name}.json, its model", of["model"], manifest["model"])
    data = f"{manifest['dataset']} ({manifest['dataset_fingerprint']}), model {manifest['model']}"
    how = f"{manifest['method']}, {manifest['steps']} steps, {manifest['spacing']}, eta {manifest['eta']:g}, "
    how += f"{manifest['schedule']} schedule, " + ", ".join(
        f"{name} {manifest[name]:g}{' in ' + str(manifest[f'{name}_interval']) if manifest[f'{name}_interval'] else ''}"
        for name in ("guidance", "autoguidance")
    )

    def save(name: str, figure: figures.Figure) -> None:
        figures.save(figure, f"figures/{name}.png", p.figures.dpi)

    states = provenance.tensors("generated/trajectory.safetensors")["states"]
    save("reverse_process", figures.reverse_process(
        states, [*manifest["timesteps"], None], p.figures.process_images, p.figures.process_steps,
        "The reverse process, from noise to image", f"{data}\n{how}",
    ))
    moving = states[:, : p.figures.process_images]
    with replacing("figures/reverse_process.gif") as temporary:
        temporary.write_bytes(pictures.gif(moving, moving.shape[1], -(-80 // moving.shape[-1])))
    generated = images.read("generated_images", manifest["count"], pixels=manifest["pixels"])
    labels = None if manifest["labels"] is None else torch.tensor(manifest["labels"])
    scores = f"fd_digits {metrics['fd_digits']:.2f} (real held-out images: {metrics['fd_digits_floor_heldout']:.2f})"
    save("samples_by_class", figures.samples_by_class(
        generated, labels, manifest["classes"], p.figures.grid_per_class,
        "Generated images, not selected" if labels is None else "Generated images by class, not selected",
        f"{data}\n{how}\n{scores}",
    ))
    curve = provenance.table("plots/learning_curve.csv")
    save("learning_curve", figures.learning_curve(curve, manifest["prediction"], p.timesteps, data))
    levels = provenance.table("plots/loss_by_noise_level.csv")
    save("loss_by_noise_level", figures.loss_by_noise_level(levels, manifest["prediction"], data))
    sweep = provenance.table("plots/quality_over_steps.csv")
    floor = None
    note = f"{swept['images']:,} generated images each; fewer images raise the distance"
    if swept["floor_heldout_sets"] > 1:
        floor = (swept["fd_digits_floor_heldout"], swept["fd_digits_floor_heldout_sd"])
        note += f"; {swept['floor_heldout_sets']} sets of as many held-out ones"
    save("quality_over_steps", figures.quality_over_steps(sweep, floor, f"{note}\n{data}"))
    schedules = {}
    for name in ("linear", "cosine"):
        try:
            schedules[name] = Schedule(ScheduleConfig(name, p.timesteps, p.beta_start, p.beta_end, p.cosine_s))
        except UserError:  # of the other one: with these timesteps it would leave no signal
            if name == p.schedule:
                raise
    save("schedules", figures.schedules(schedules, p.schedule, f"{p.timesteps} timesteps; {data}"))
