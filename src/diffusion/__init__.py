"""The diffusion model: noise schedules, network, denoiser and samplers.

This folder imports only torch and itself, so you can copy it into another project. It raises
ValueError for invalid settings.

    schedule = ScheduleConfig("flow", timesteps=1000)
    denoiser = Denoiser(DenoiserConfig(unet, schedule, "velocity", label_dropout=0.1))
    times, weighting = Times.named("logit-normal 0 1"), Weighting("uniform", denoiser)

    t = (times.quantile(torch.rand(len(x0))) * 1000).long().clamp(max=999)
    loss = weighting(denoiser.loss(x0, torch.randn_like(x0), t, label), t).mean()

    def noise():
        return torch.randn(64, 1, 28, 28)

    *_, last = sample(denoiser, noise, Sampler("euler", steps=20, spacing="trailing"), label)
    images = last.x0.clamp(-1, 1)
"""

from .denoiser import Denoiser, DenoiserConfig, Prediction
from .samplers import Method, Sampler, Step, sample
from .schedule import Schedule, ScheduleConfig, ScheduleName, Spacing
from .times import Times
from .unet import UNet, UNetConfig
from .weighting import Weighting

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
    "Times",
    "UNet",
    "UNetConfig",
    "Weighting",
    "sample",
]
