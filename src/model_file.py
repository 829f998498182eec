"""The model file: a denoiser's weights and configuration in one safetensors file."""

from __future__ import annotations

import copy
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field
from torch import nn

from .common import artifact, device
from .common.dataset import MAX_SIDE
from .common.errors import UserError
from .common.schema import parse
from .diffusion.denoiser import Denoiser, DenoiserConfig
from .diffusion.unet import UNet

KIND = "denoiser"
REMEDY = "`dvc pull` fetches it, `dvc repro train` makes it"

Text = Annotated[str, Field(max_length=1000)]


class About(BaseModel):
    """What the stages need to know of a model. The header may say more."""

    dataset: Text
    dataset_fingerprint: Text
    class_counts: list[Annotated[int, Field(ge=0, le=10**12)]]  # training images; [] without labels
    class_names: list[Text] | None = None  # None: their numbers
    evaluations: Annotated[int, Field(ge=1, le=1000)] | None = None  # None: no student
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0  # of a student: fresh noise in its sampler


def save(denoiser: Denoiser, path: str | Path, about: dict) -> None:
    """Write the weights (the guide's too), the configuration and `about` to one file.

    `about` has JSON values: the keys of About, held-out loss ... A setting at its default is left
    out, so that a new one does not change the bytes of models without it.
    """
    config = asdict(denoiser.config)
    for setting in fields(denoiser.config):
        if config[setting.name] == setting.default:
            del config[setting.name]
    header = {"config": config, "about": about}
    artifact.save(path, KIND, denoiser.state_dict(), header)


def load(path: str | Path) -> tuple[Denoiser, dict]:
    """Read the denoiser, in evaluation mode on the CPU, and `about`.

    Raises UserError if the file is missing or damaged, OSError if the system cannot read it.
    """
    header, weights = artifact.load(path, KIND, REMEDY)
    try:
        config = _config(header["config"], len(weights))
        guided = any(name.startswith("guide.") for name in weights)
        names = ["unet", "guide"] if guided else ["unet"]
        artifact.check_fit(
            lambda: nn.ModuleDict({name: UNet(config.unet) for name in names}), weights
        )
        denoiser = Denoiser(config)
        if guided:
            denoiser.guide = copy.deepcopy(denoiser.unet)
        denoiser.load_state_dict(weights)
        about = header["about"]
        _check_classes(parse(About, about), config.unet.classes)
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        ArithmeticError,
    ) as error:
        raise UserError(
            f"{path}: its weights do not fit its configuration ({error}); train again"
        ) from None
    return denoiser.eval().requires_grad_(False), about


def _config(raw: dict, weights: int) -> DenoiserConfig:
    """Read the configuration in a header. `weights` is the number of tensors in the file.

    Raises ValueError or another exception that `load` handles, if it is invalid.
    """
    config = parse(DenoiserConfig, raw)
    unet = config.unet
    if not 1 <= unet.image_size <= MAX_SIDE:
        raise ValueError(f"image_size: expected 1 to {MAX_SIDE}, got {unet.image_size}")
    if len(unet.multipliers) * unet.res_blocks > weights:
        levels = len(unet.multipliers)
        raise ValueError(
            f"{unet.res_blocks} blocks on each of {levels} levels, but only {weights} weights"
        )
    return config


def _check_classes(about: About, classes: int) -> None:
    """Raises ValueError unless there is a number of images and a name for each class, or none."""
    counts, names = about.class_counts, about.class_names
    if counts and (not any(counts) or classes not in (0, len(counts))):
        raise ValueError(
            f"class_counts: expected one count for each of {classes} classes, "
            f"got {str(counts)[:100]}"
        )
    if names is not None and (len(names) != len(counts) or len(set(names)) < len(names)):
        raise ValueError(
            f"class_names: expected another name for each of {len(counts)} classes, "
            f"got {str(names)[:100]}"
        )


def open_model(
    path: str | Path, precision: Literal["auto", "float32", "bfloat16"]
) -> tuple[Denoiser, dict]:
    """Read the denoiser, move it to the best device and set its precision. Also returns `about`."""
    denoiser, about = load(path)
    denoiser = denoiser.to(device.best())
    denoiser.precision = device.precision(precision, device.best())
    return denoiser, about
