"""Network + schedule + what the network predicts: from a noisy image to the clean one it came from, and the training loss.

Also the model artifact: weights and configuration in one safetensors file, from which the same denoiser is rebuilt.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from src.common import artifact
from src.common.dataset import MAX_SIDE
from src.common.device import Precision
from src.common.errors import UserError
from src.diffusion.schedule import Schedule, ScheduleConfig
from src.diffusion.unet import UNet, UNetConfig

Prediction = Literal["epsilon", "v", "x0"]


@dataclass(frozen=True)
class DenoiserConfig:
    """All that sampling needs to know of how a model was trained."""

    unet: UNetConfig
    schedule: ScheduleConfig
    prediction: Prediction
    label_dropout: float


class Denoiser(nn.Module):
    """Images are float32 (B, C, H, W) in [-1, 1], timesteps int64 (B,), labels int64 (B,) or None."""

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        self.config = config
        self.schedule = Schedule(config.schedule)
        self.unet = UNet(config.unet).to(memory_format=torch.channels_last)
        self.guide: UNet | None = None  # the network early in its training: what autoguidance steers away from
        self.precision: Precision = "float32"  # of the network's products and sums; weights and images are always float32

    @property
    def conditional(self) -> bool:
        return self.config.unet.classes > 0

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The network's output, in the shape and type of the images."""
        return self._output(self.unet, x_t, t, label)

    def _output(self, network: UNet, x_t: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        with torch.autocast(x_t.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return network(x_t, t, label).to(x_t.dtype)

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the network should output. v = alpha eps - sigma x0 is of Salimans and Ho 2022, section 4."""
        if self.config.prediction == "epsilon":
            return eps
        if self.config.prediction == "x0":
            return x0
        alpha, sigma = self.schedule.levels(t, x0)
        return alpha * eps - sigma * x0

    def loss(self, x0: Tensor, eps: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """Squared error per image, (B,): of the network's output, in whatever it predicts (DDPM, eq. 14, for epsilon)."""
        output = self(self.schedule.add_noise(x0, eps, t), t, label)
        return (output - self.target(x0, eps, t)).square().mean(dim=(1, 2, 3))

    def predict_x0(
        self, x_t: Tensor, t: int | Tensor, label: Tensor | None = None, guidance: float = 1.0, autoguidance: float = 1.0
    ) -> Tensor:
        """The clean image expected behind x_t, not clipped; `t` is one for all, or (B,) int64.

        With w = `guidance` the output is moved by (w - 1) times its difference from that without class (Ho and Salimans
        2022, whose scale is w - 1), with w = `autoguidance` likewise from the guide's, which has the class (Karras et al.
        2024, "Guiding a diffusion model with a bad version of itself"). 1 moves nothing and costs nothing, of others each
        costs one more evaluation. Raises UserError if the model was not trained for it.
        """
        times = torch.as_tensor(t, device=x_t.device).expand(len(x_t))
        if guidance == 1.0 or label is None:
            own = output = self(x_t, times, label)
        else:
            if not self.config.label_dropout:
                raise UserError(
                    f"sample.guidance: expected 1.0 for a model trained with model.label_dropout 0, found {guidance}; "
                    f"train with label_dropout above 0 for guidance"
                )
            no_class = torch.full_like(label, self.config.unet.classes)
            both = self(x_t.repeat(2, 1, 1, 1), times.repeat(2), torch.cat([label, no_class]))
            own, uncond = both.chunk(2)
            output = own + (guidance - 1) * (own - uncond)
        if autoguidance != 1.0:
            if self.guide is None:
                raise UserError(
                    f"sample.autoguidance: expected 1.0 for a model trained with train.guide_at 0, found {autoguidance}; "
                    f"train with guide_at above 0 for autoguidance"
                )
            output = output + (autoguidance - 1) * (own - self._output(self.guide, x_t, times, label))
        alpha, sigma = self.schedule.levels(times, x_t)
        if self.config.prediction == "epsilon":
            return (x_t - sigma * output) / alpha
        if self.config.prediction == "x0":
            return output
        return alpha * x_t - sigma * output


def save(denoiser: Denoiser, path: str | Path, about: dict) -> None:
    """Write weights, with the guide's, configuration and `about` (JSON values: data set, class counts ...) to one file."""
    artifact.save(path, "denoiser", denoiser.state_dict(), {"config": asdict(denoiser.config), "about": about})


def load(path: str | Path) -> tuple[Denoiser, dict]:
    """The denoiser, in evaluation mode on the CPU, and `about`. Raises UserError if the file is missing or damaged,
    OSError if the system refuses it."""
    header, weights = artifact.load(path, "denoiser", remedy="`dvc pull` fetches it, `dvc repro train` makes it")
    try:
        config = header["config"]
        lists = {key: tuple(value) for key, value in config["unet"].items() if isinstance(value, list)}
        unet = UNetConfig(**config["unet"] | lists)
        if not 1 <= unet.image_size <= MAX_SIDE or config["prediction"] not in get_args(Prediction):
            raise ValueError(f"images of side {unet.image_size}, prediction {config['prediction']!r}")
        if len(unet.multipliers) * unet.res_blocks > len(weights):
            raise ValueError(f"{unet.res_blocks} blocks on each of {len(unet.multipliers)} levels, but {len(weights)} weights")
        guided = any(name.startswith("guide.") for name in weights)
        artifact.fit(lambda: nn.ModuleDict({name: UNet(unet) for name in ("unet", *["guide"] * guided)}), weights)
        schedule = ScheduleConfig(**config["schedule"])
        denoiser = Denoiser(DenoiserConfig(unet, schedule, config["prediction"], config["label_dropout"]))
        if guided:
            denoiser.guide = copy.deepcopy(denoiser.unet)
        denoiser.load_state_dict(weights)
        about = header["about"]
        counts = about.get("class_counts", [])
        wrong = any(type(count) is not int or count < 0 for count in counts) or (counts and not any(counts))
        if wrong or (counts and unet.classes not in (0, len(counts))):
            raise ValueError(f"class_counts {str(counts)[:100]} of {unet.classes} classes")
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise UserError(f"{path}: its weights do not fit its configuration ({error}); train anew") from None
    return denoiser.eval().requires_grad_(False), about
