"""`python -m benchmarks.convergence`: how the error of each sampler falls with its steps.

Where the values of images are normal, the best prediction of x0 and the solution of the sampling
ODE are known in closed form. Each sampler solves the ODE from a log-SNR of -3 to 5, in equal
strides of log-SNR, in float64. The slope of log error over log steps is its order of convergence.
Writes benchmarks/results/convergence.json and docs/pictures/convergence.png.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from torch import Tensor

from src.common import reports
from src.diffusion import DenoiserConfig, Sampler, ScheduleConfig, ScheduleName, UNetConfig, sample
from src.diffusion.denoiser import Denoiser
from src.diffusion.samplers import Method
from src.plotting import COLOURS, PAGE, save
from tools.machine import describe

RESULT = Path("benchmarks/results/convergence.json")
PICTURE = Path("docs/pictures/convergence.png")
METHODS: tuple[Method, ...] = ("euler", "heun", "dpmsolver++", "sa-solver", "unipc")
SCHEDULES: tuple[ScheduleName, ...] = ("cosine", "flow")
STEPS = (8, 16, 32, 64, 128, 256, 512)
ENDS = -3.0, 5.0  # log-SNR
MEAN, DEVIATION = 0.3, 0.4  # of the values


class Normal(Denoiser):
    """The best denoiser of values with a normal distribution. It predicts E[x0 | x_t]."""

    def __init__(self, schedule: ScheduleName):
        unet = UNetConfig(2, 1, 0, 1, 4, (1,), 1, (), 1, 0.0, 4)
        config = ScheduleConfig(schedule, 40_000, 1e-6, 5e-4, 0.008)
        super().__init__(DenoiserConfig(unet, config, "v", 0.0))

    def predict_x0(self, x_t: Tensor, t: int | Tensor, *guidance: object) -> Tensor:
        alpha, sigma = self.schedule.alpha[t], self.schedule.sigma[t]
        gain = alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2)
        return MEAN + gain * (x_t - alpha * MEAN)

    def solution(self, z: Tensor, t: int) -> Tensor:
        """x_t on the ODE's path that stays at z standard deviations from the mean."""
        alpha, sigma = self.schedule.alpha[t], self.schedule.sigma[t]
        return alpha * MEAN + (alpha**2 * DEVIATION**2 + sigma**2).sqrt() * z


def error(method: Method, schedule: ScheduleName, steps: int) -> float:
    """Root mean square error of x_t at the end of `steps` steps."""
    denoiser = Normal(schedule)
    wanted = torch.linspace(*ENDS, steps + 1, dtype=torch.float64)
    levels = denoiser.schedule.log_snr
    timesteps = [int((levels - log_snr).abs().argmin()) for log_snr in wanted]
    # Instance attribute: these timesteps instead of a spacing's.
    denoiser.schedule.sampling_timesteps = lambda *_: timesteps  # type: ignore[method-assign]
    z = torch.linspace(-2, 2, 101, dtype=torch.float64).view(-1, 1, 1, 1)
    start = denoiser.solution(z, timesteps[0])
    sampler = Sampler(method, steps + 1, "logsnr")
    *_, last = sample(denoiser, lambda: start, sampler, clip=False)
    return float((last.x_t - denoiser.solution(z, timesteps[-1])).square().mean().sqrt())


def slope(errors: dict[int, float]) -> float:
    """Minus the slope of log error over log steps, between the last two."""
    (steps, larger), (more, smaller) = list(errors.items())[-2:]
    return math.log(larger / smaller) / math.log(more / steps)


def main() -> None:
    rows = []
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.6), sharey=True)
    for schedule, axis in zip(SCHEDULES, axes, strict=True):
        for method, colour in zip(METHODS, COLOURS, strict=False):
            errors = {steps: error(method, schedule, steps) for steps in STEPS}
            rows.append({"schedule": schedule, "method": method, "order": slope(errors)})
            rows[-1]["errors"] = {str(steps): value for steps, value in errors.items()}
            label = f"{method} ({rows[-1]['order']:.1f})"
            axis.loglog(list(errors), list(errors.values()), "o-", color=colour, label=label)
        axis.set(title=f"{schedule} schedule", xlabel="steps", xticks=STEPS)
        axis.set_xticklabels([str(steps) for steps in STEPS])
        axis.minorticks_off()
    lines = axes[-1].get_legend_handles_labels()
    figure.legend(*lines, title="sampler (order)", loc="outside right center")
    axes[0].set_ylabel("error of $x_t$")
    save(figure, PICTURE, 200)
    reports.write_json(RESULT, {"log_snr": ENDS, "rows": rows} | describe("torch"))


if __name__ == "__main__":
    main()
