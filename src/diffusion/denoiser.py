"""The denoiser: a network with its schedule and prediction. Has the loss, and predicts x0.

The network's output is a linear combination a x0 + b eps of image and noise. `combinations` is
the table of a and b; target, loss and predicted x0 follow from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from .schedule import Schedule, ScheduleConfig, ScheduleName, lookup
from .unet import UNet, UNetConfig

Prediction = Literal["epsilon", "v", "x0", "velocity"]

# What `auto` stands for.
DEFAULT_PREDICTION: dict[ScheduleName, Prediction] = {
    "linear": "v",
    "cosine": "v",
    "flow": "velocity",
}


def combinations(prediction: Prediction, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """The factors a and b of the prediction a x0 + b eps at each timestep: each (T,) float64.

    epsilon   the noise (Ho et al. 2020)
    x0        the image
    v         alpha eps - sigma x0 (Salimans and Ho 2022, section 4, for alpha^2 + sigma^2 = 1)
    velocity  dx_t / dt = alpha' x0 + sigma' eps, the target of flow matching: on the flow path
              eps - x0, from image to noise (Lipman et al. 2022; Liu et al. 2022). Where the
              variance is preserved it is v, scaled
    """
    zero, one = torch.zeros_like(schedule.alpha), torch.ones_like(schedule.alpha)
    return {
        "epsilon": (zero, one),
        "x0": (one, zero),
        "v": (-schedule.sigma, schedule.alpha),
        "velocity": (schedule.alpha_slope, schedule.sigma_slope),
    }[prediction]


@dataclass(frozen=True)
class DenoiserConfig:
    """The settings of a trained model that sampling needs."""

    unet: UNetConfig
    schedule: ScheduleConfig
    prediction: Prediction
    label_dropout: float  # share of images trained without their class
    margin: float = 0.0  # the network sees black as -1 - margin: see Denoiser.encode

    def __post_init__(self) -> None:
        if self.prediction not in get_args(Prediction):
            names = ", ".join(get_args(Prediction))
            raise ValueError(f"prediction: expected one of {names}, got {self.prediction!r}")
        if not 0 <= self.label_dropout < 1:
            raise ValueError(
                f"label_dropout: expected 0 or more and less than 1, got {self.label_dropout}"
            )
        if not 0 <= self.margin <= 1:
            raise ValueError(f"margin: expected 0 to 1, got {self.margin}")


class Denoiser(nn.Module):
    """Predicts the clean image x0 from the noisy image x_t.

    Images are float32 (B, C, H, W); t is int64 (B,), label int64 (B,) or None. Noise is added to
    encoded images, in [-1 - margin, 1]: see `encode`.
    """

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        self.config = config
        self.schedule = Schedule(config.schedule)
        a, b = self._image_factor, self._noise_factor = combinations(
            config.prediction, self.schedule
        )
        # The solution x0 of x_t = alpha x0 + sigma eps and output = a x0 + b eps. For v it is
        # alpha x_t - sigma output, for velocity on the flow path x_t - sigma output.
        determinant = self.schedule.alpha * b - self.schedule.sigma * a
        self.x0_per_x_t = b / determinant
        self.x0_per_output = -self.schedule.sigma / determinant
        # The squared error of the output is this, times that of x0: (T,) float64.
        self.output_weight = self.x0_per_output**-2
        self.unet = UNet(config.unet).to(memory_format=torch.channels_last)
        # The network at an early step of training; autoguidance moves the output away from it.
        self.guide: UNet | None = None
        # The network computes in this precision; weights and images are always float32.
        self.precision: Literal["float32", "bfloat16"] = "float32"

    @property
    def conditional(self) -> bool:
        return self.config.unet.classes > 0

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The network's output, with the shape and dtype of x_t."""
        return self._output(self.unet, x_t, t, label)

    def _output(self, network: UNet, x_t: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        mixed = self.precision == "bfloat16"
        with torch.autocast(x_t.device.type, torch.bfloat16, enabled=mixed):
            return network(x_t, t, label).to(x_t.dtype)

    def encode(self, x0: Tensor) -> Tensor:
        """Images in [-1, 1] as the network sees them: black, -1, becomes -1 - margin.

        Small errors of a predicted black pixel then vanish when images are clipped to [-1, 1].
        """
        return torch.where(x0 <= -1, x0 - self.config.margin, x0) if self.config.margin else x0

    def clip(self, x0: Tensor) -> Tensor:
        """Limit predicted images to the range of encoded ones, [-1 - margin, 1]."""
        return x0.clamp(-1 - self.config.margin, 1)

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The target of the network's output, a x0 + b eps: see `combinations`. x0 is encoded."""
        t = t.cpu()
        image_factor, noise_factor = self._image_factor, self._noise_factor
        return lookup(image_factor, t, x0) * x0 + lookup(noise_factor, t, x0) * eps

    def loss(self, x0: Tensor, eps: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """Mean squared error of the network's output for each image: (B,). x0 is in [-1, 1].

        For epsilon this is eq. 14 of DDPM as a mean over values, for velocity the loss of
        conditional flow matching.
        """
        x0 = self.encode(x0)
        output = self(self.schedule.add_noise(x0, eps, t), t, label)
        return (output - self.target(x0, eps, t)).square().mean(dim=(1, 2, 3))

    def predict_x0(
        self,
        x_t: Tensor,
        t: int | Tensor,
        label: Tensor | None = None,
        guidance: float = 1.0,
        autoguidance: float = 1.0,
    ) -> Tensor:
        """Predict the encoded x0 from x_t, not clipped. `t` is (B,) int64, or one timestep for all.

        With w = `guidance` and a = `autoguidance`, guidance changes the network's output F to

            F(x_t, c) + (w - 1) (F(x_t, c) - F(x_t, no class)) + (a - 1) (F(x_t, c) - guide(x_t, c))

        The second term is classifier-free guidance (Ho and Salimans 2022; their scale is w - 1).
        The third is autoguidance (Karras et al. 2024, "Guiding a diffusion model with a bad
        version of itself"). At 1 a term is off; any other value costs one more evaluation.
        Without labels w has no effect. Raises ValueError if the model was not trained for w or a.
        """
        self.check_guidance(1.0 if label is None else guidance, autoguidance)
        times = torch.as_tensor(t, device=x_t.device).expand(len(x_t))
        if guidance == 1.0 or label is None or not self.conditional:
            conditional = output = self(x_t, times, label)
        else:
            no_class = torch.full_like(label, self.config.unet.classes)
            both = self(x_t.repeat(2, 1, 1, 1), times.repeat(2), torch.cat([label, no_class]))
            conditional, unconditional = both.chunk(2)
            output = conditional + (guidance - 1) * (conditional - unconditional)
        if autoguidance != 1.0 and self.guide is not None:
            early = self._output(self.guide, x_t, times, label)
            output = output + (autoguidance - 1) * (conditional - early)
        return self._x0(output, x_t, times)

    def _x0(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Convert the network's output to x0."""
        t = t.cpu()
        return lookup(self.x0_per_x_t, t, x_t) * x_t + lookup(self.x0_per_output, t, x_t) * output

    def check_guidance(self, guidance: float, autoguidance: float) -> None:
        """Raises ValueError if the model was not trained for this guidance. 1 always works."""
        if guidance != 1.0 and self.conditional and not self.config.label_dropout:
            raise ValueError(
                f"guidance: expected 1.0 for a model trained with label_dropout 0, got {guidance}. "
                f"Train with label_dropout above 0 for guidance"
            )
        if autoguidance != 1.0 and self.guide is None:
            raise ValueError(
                f"autoguidance: expected 1.0 for a model without a guide, got {autoguidance}. "
                f"Train with guide_at above 0 for autoguidance"
            )
