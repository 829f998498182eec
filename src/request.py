"""What a visitor of the demo may ask for: bounded here, whatever a browser sends."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, ValidationError

from src.common.errors import UserError
from src.diffusion.denoiser import Denoiser
from src.diffusion.samplers import ETA, Method
from src.diffusion.schedule import Spacing
from src.drawing import Sampler
from src.params import MOST_ETA, Float, Section

MOST_IMAGES, MOST_STEPS, MOST_GUIDANCE, MOST_SEED = 100, 100, 5.0, 2**31 - 1

Weight = Annotated[Float, Field(ge=0, le=MOST_GUIDANCE)]


class Request(Section):
    """Some images by one sampler. Equal requests to one model are equal images."""

    method: Method
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)]
    spacing: Spacing
    eta: Annotated[Float, Field(ge=0, le=max(MOST_ETA.values()))]
    guidance: Weight
    guidance_interval: tuple[float, float] | None
    autoguidance: Weight
    autoguidance_interval: tuple[float, float] | None
    seed: Annotated[int, Field(ge=0, le=MOST_SEED)]
    count: Annotated[int, Field(ge=1, le=MOST_IMAGES)]
    digits: tuple[Annotated[int, Field(ge=0)], ...] | None  # the class of each image; None: of a model without classes

    @classmethod
    def of(cls, **values: object) -> Request:
        """Raises UserError that names each value that is out of bounds."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}, found {e['input']!r}" for e in error.errors())
            raise UserError("; ".join(problems)) from None

    def sampler(self) -> Sampler:
        """Settings that mean nothing for the method are left out: requests that differ in them alone are equal."""
        return Sampler(
            self.method, self.steps, self.spacing, ETA.get(self.method, min(self.eta, MOST_ETA.get(self.method, 0.0))),
            self.guidance, self.guidance_interval, self.autoguidance, self.autoguidance_interval,
        )

    def labels(self, denoiser: Denoiser) -> torch.Tensor | None:
        """The class of each image, (count,) int64. Raises UserError for classes that the model has not."""
        classes = denoiser.config.unet.classes
        if not classes:
            return None
        if self.digits is None:
            raise UserError(f"digits: expected {self.count} classes from 0 to {classes - 1}, found none")
        if len(self.digits) != self.count or max(self.digits) >= classes:
            raise UserError(f"digits: expected {self.count} classes from 0 to {classes - 1}, found {list(self.digits)}")
        return torch.tensor(self.digits)
