"""Build the untrained model of params.yaml, and describe it to the user."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..common.dataset import Dataset
from ..common.errors import UserError, user_errors
from ..common.randomness import derive
from ..diffusion.denoiser import DEFAULT_PREDICTION, Denoiser, DenoiserConfig
from ..diffusion.schedule import ScheduleConfig
from ..diffusion.unet import UNetConfig
from ..params import Model


def untrained(settings: Model, schedule: ScheduleConfig, data: Dataset, seed: int) -> Denoiser:
    """A denoiser with random weights, for the images and classes of `data`.

    `seed` fixes the weights. Raises UserError if the settings do not fit the images.
    """
    unet = UNetConfig(
        image_size=data.image_size,
        image_channels=data.channels,
        classes=data.classes if settings.conditional else 0,
        patch_size=settings.patch_size,
        base_channels=settings.base_channels,
        multipliers=tuple(settings.multipliers),
        res_blocks=settings.res_blocks,
        attention_resolutions=tuple(settings.attention_resolutions or ()),
        heads=settings.heads,
        dropout=settings.dropout,
        time_width=settings.time_width,
    )
    _check_size(settings, data.image_size)
    if settings.attention_resolutions is None:
        unet = replace(unet, attention_resolutions=(unet.resolutions[-1],))
    prediction = settings.prediction
    if prediction == "auto":
        prediction = DEFAULT_PREDICTION[schedule.name]
    config = DenoiserConfig(unet, schedule, prediction, settings.label_dropout, settings.margin)
    with torch.random.fork_rng(devices=[]), user_errors("model."):
        torch.manual_seed(derive(seed, "weights"))
        return Denoiser(config)


def _check_size(settings: Model, side: int) -> None:
    """Raises UserError that names settings that fit, unless the levels divide the images."""
    halvings = 2 ** (len(settings.multipliers) - 1)
    factor = settings.patch_size * halvings
    if side % factor == 0:
        return
    fits = [patch for patch in range(settings.patch_size, 0, -1) if side % (patch * halvings) == 0]
    sizes = [size for size in (side // factor * factor, -(-side // factor) * factor) if size]
    remedies = [f"model.patch_size={patch}" for patch in fits[:1]]
    remedies += [f"unpack.size={size}" for size in sizes]
    raise UserError(
        f"model.patch_size, model.multipliers: images of {side}x{side} cannot be divided by "
        f"{factor} = patch_size * 2^(levels - 1). Any of these fits: {', '.join(remedies)}; "
        f"or use fewer multipliers"
    )


def describe(denoiser: Denoiser, model: Model) -> list[str]:
    """Lines that describe the denoiser, and its differences from `model` of params.yaml."""
    unet = denoiser.config.unet
    sides = unet.resolutions
    attention = [side for side in sides if side in unet.attention_resolutions]
    named = f"none (model.attention_resolutions is {list(unet.attention_resolutions)})"
    parameters = sum(weights.numel() for weights in denoiser.parameters())
    lines = [
        f"{parameters:,} parameters, feature map sides {sides}, attention at {attention or named}, "
        f"{unet.classes or 'no'} classes"
    ]
    if model.conditional and not unet.classes:
        lines.append(
            "the data has no labels, so the model is unconditional although model.conditional "
            "is true"
        )
    config = denoiser.config
    automatic = " (auto)" if model.prediction == "auto" else ""
    lines.append(f"{config.schedule.name} schedule, predicts {config.prediction}{automatic}")
    signal = float(denoiser.schedule.alpha[-1]) ** 2
    if signal > 1e-3:
        lines.append(
            f"{signal:.1%} of the signal's variance is left at the last timestep, but samplers "
            f"start from pure noise. Expect worse images, or increase timesteps or beta_end"
        )
    return lines
