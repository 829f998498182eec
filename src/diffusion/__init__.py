"""The diffusion model: noise schedules, network, denoiser and samplers.

This folder imports torch and itself alone, and raises ValueError for settings that make no sense.
It can be copied into another project as it is.

    schedule = Schedule(ScheduleConfig("cosine", 1000, 1e-4, 0.02, 0.008))
    loss = denoiser.loss(x0, eps, t, label).mean()
    *_, last = sample(denoiser, noise, Sampler("ddim", steps=20, spacing="trailing"), label)
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
