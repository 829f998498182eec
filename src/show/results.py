"""Values for the figures and the report: floors, schedules, facts about the run, experiments."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import get_args

import torch
import yaml

from .. import provenance
from ..common import device
from ..diffusion.schedule import Schedule, ScheduleConfig, ScheduleName
from ..provenance import FidMetrics, SweepMetrics
from . import experiments
from .commits import git

CODE = ("src", "stages", "tools", "dvc.yaml", "params.yaml", "constraints.txt")


def distances(fid: FidMetrics) -> str:
    """The distances that were measured, each with its floor, in one line."""
    parts = []
    for metric in ("fd_imagenet", "fd_digits"):
        value, floor = fid[metric], fid[f"{metric}_floor_heldout"]  # type: ignore[literal-required]
        if value is not None and floor is not None:
            parts.append(f"{metric} {value:.2f} (real held-out images: {floor:.2f})")
    return ", ".join(parts)


def sweep_floors(sweep: SweepMetrics) -> tuple[dict[str, tuple[float, float] | None], str]:
    """Mean and standard deviation of both distances of real images, and a note for the figure.

    None stands for a distance that was not measured, or for too few real images.
    """
    digits = sweep["fd_digits_floor_heldout"], sweep["fd_digits_floor_heldout_sd"]
    imagenet = sweep["kid_imagenet_floor_heldout"], sweep["kid_imagenet_floor_heldout_sd"]
    note = f"{sweep['images']:,} generated images each; fewer images raise fd_digits"
    if digits[1] is not None:
        note += f"; {sweep['floor_heldout_sets']} sets of as many held-out ones"
    return {"fd_digits": _pair(*digits), "kid_imagenet": _pair(*imagenet)}, note


def _pair(mean: float | None, deviation: float | None) -> tuple[float, float] | None:
    return None if mean is None or deviation is None else (mean, deviation)


def schedules_to_compare(config: ScheduleConfig) -> dict[str, Schedule]:
    """The schedule of `config`, and each other schedule that allows the same settings."""
    schedules = {}
    for name in get_args(ScheduleName):
        try:
            schedules[name] = Schedule(replace(config, name=name))
        except ValueError:  # the other schedule leaves no signal with these timesteps
            if name == config.name:
                raise
    return schedules


def check_metrics(metrics: dict[str, dict]) -> None:
    """Raises UserError unless all metrics belong to one data set, model and set of images.

    `metrics` has the content of each file in metrics/, by its name without .json.
    """
    for name, values in metrics.items():
        for key in ("dataset_fingerprint", "pixels", "model"):
            what = "data set" if key == "dataset_fingerprint" else key
            if key in values:
                expected = metrics["data" if what == "data set" else "fid"].get(key)
                provenance.expect(f"metrics/{name}.json, its {what}", values[key], expected)


def about_run(metrics: dict[str, dict]) -> list[tuple[str, str]]:
    """Rows (name, text) about the data, the model, the images, the code and the machine."""
    data, train, fid = metrics["data"], metrics["train"], metrics["fid"]
    colour = "RGB" if data["channels"] == 3 else "grey"
    return [
        (
            "data",
            f"{data['dataset']} ({data['dataset_fingerprint']}): {data['train_images']:,} training "
            f"and {data['heldout_images']:,} held-out images, "
            f"{data['image_size']}x{data['image_size']}, {colour}, {data['classes'] or 'no'} "
            f"classes",
        ),
        (
            "model",
            f"{fid['model']}: {train['parameters']:,} parameters, {train['steps']:,} steps, "
            f"trained in {train['precision']}",
        ),
        ("classifier", f"{fid['classifier']}, {_origin(fid)}"),
        ("images", f"{fid['images']:,}, with the pixel digest {fid['pixels']}"),
        ("revision", _revision()),
        ("DVC", _dvc_revision()),
        ("this page was made on", _machine()),
    ]


def _origin(fid: dict) -> str:
    """Where the classifier of fd_digits comes from."""
    if fid["yardstick"] is None:
        return "trained by this pipeline: fd_digits compares with no other classifier's"
    return f"of the yardstick {fid['yardstick']}, the same for everybody"


def compared_experiments() -> dict | None:
    """The table of experiments for the page; None if there are none."""
    frame = experiments.table()
    if not len(frame):
        return None
    columns = [name for name in frame.columns if frame[name].notna().any()]
    numbers = set(experiments.headings(experiments.METRICS).values())
    rows = [list(map(experiments.shown, row)) for row in frame[columns].itertuples(index=False)]
    parameters = sum(name not in numbers for name in columns)
    return {"columns": columns, "rows": rows, "parameters": parameters}


def _revision() -> str:
    """The commit, and the files of code and parameters that differ from it."""
    commit = git("rev-parse", "--short=12", "HEAD").strip()
    if not commit:
        return "not in a git repository"
    changed = sorted(line[3:] for line in git("status", "--porcelain", "--", *CODE).splitlines())
    return f"git {commit}" + (f", with changes in {', '.join(changed)}" if changed else "")


def _dvc_revision() -> str:
    """DVC's version, the md5 of the data in data.dvc, and the name of the experiment, if any.

    data.dvc is no dependency of the stage, because DVC does not accept .dvc files as dependencies.
    """
    pin = yaml.safe_load(Path("data.dvc").read_text(encoding="utf-8"))["outs"][0]["md5"]
    experiment = os.environ.get("DVC_EXP_NAME")
    part = f", experiment {experiment}" if experiment else ""
    return f"{metadata.version('dvc')}, data with the md5 {pin}{part}"


def _machine() -> str:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{device.processor()}, {os.cpu_count()} cores, {gpu}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )
