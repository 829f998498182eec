"""How training picks the times of its images: more often where the noise level matters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .schedule import ScheduleName

# What `auto` stands for: log-SNRs from -1.0 to -0.7, where digits take shape.
DEFAULT_TIMES: dict[ScheduleName, str] = {
    "linear": "focus 0.6 0.33",
    "cosine": "focus 0.6 0.62",
    "flow": "focus 0.6 0.62",
}


@dataclass(frozen=True)
class Times:
    """A distribution of t, as a share of the timesteps, in [0, 1].

    uniform               all equally often (Ho et al. 2020)
    focus STRENGTH AT     denser around AT. The density is periodic: highest at AT, with
                          1 / (1 - STRENGTH), and lowest half a period away, with 1 / (1 + STRENGTH)
    logit-normal MEAN SD  the logit of t is normal (Esser et al. 2024, eq. 19). On the flow path the
                          log-SNR is then normal, with mean -2 MEAN and standard deviation 2 SD
    """

    name: str
    parameters: tuple[float, ...] = ()

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{value:g}" for value in self.parameters)])

    @classmethod
    def named(cls, text: str) -> Times:
        """The distribution of a text such as "focus 0.6 0.62". Raises ValueError."""
        name, *numbers = text.split() or [""]
        try:
            parameters = tuple(float(number) for number in numbers)
        except ValueError:
            parameters = (math.nan,)
        finite = all(map(math.isfinite, parameters))
        fits = {
            "uniform": len(parameters) == 0,
            "focus": len(parameters) == 2 and 0 <= parameters[0] < 1 and 0 <= parameters[1] <= 1,
            "logit-normal": len(parameters) == 2 and parameters[1] > 0,
        }
        if not (finite and fits.get(name, False)):
            raise ValueError(
                f'expected "uniform", "focus STRENGTH AT" (STRENGTH below 1, AT up to 1) or '
                f'"logit-normal MEAN SD" (SD above 0), found {text!r}'
            )
        return cls(name, parameters)

    def quantile(self, u: Tensor) -> Tensor:
        """Map uniform `u` in [0, 1) to t in [0, 1]: float32, with the shape of u."""
        if self.name == "uniform":
            return u
        if self.name == "logit-normal":
            mean, deviation = self.parameters
            return torch.sigmoid(mean + deviation * torch.special.ndtri(u))
        strength, at = self.parameters
        return (u + strength / (2 * math.pi) * torch.sin(2 * math.pi * u) + at - 0.5) % 1
