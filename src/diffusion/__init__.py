"""The diffusion model: noise schedules, network, denoiser and samplers.

This folder imports only torch and itself, so you can copy it into another project. It raises
ValueError for invalid settings.

    schedule = ScheduleConfig("cosine", 1000, 1e-4, 0.02, 0.008)
    denoiser = Denoiser(DenoiserConfig(unet, schedule, "v", label_dropout=0.1))

    loss = denoiser.loss(x0, eps, t, label).mean()

    *_, last = sample(denoiser, noise, Sampler("ddim", steps=20, spacing="trailing"), label)
    images = last.x0
"""

from .denoiser import Denoiser, DenoiserConfig, Prediction
from .samplers import Method, Sampler, Step, sample
from .schedule import Schedule, ScheduleConfig, ScheduleName, Spacing
from .unet import UNet, UNetConfig

__all__ = [
    "Denoiser",
    "DenoiserConfig",
    "Method",
    "Prediction",
    "Sampler",
    "Schedule",
    "ScheduleConfig",
    "ScheduleName",
    "Spacing",
    "Step",
    "UNet",
    "UNetConfig",
    "sample",
]
