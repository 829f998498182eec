"""Requests to the demo. They are checked here, since a browser can send anything."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, ValidationError

from ..common.errors import UserError
from ..common.schema import explain
from ..diffusion.denoiser import Denoiser
from ..params import Float, SamplerFields

MAX_IMAGES, MAX_STEPS, MAX_GUIDANCE, MAX_SEED = 100, 100, 5.0, 2**31 - 1

Weight = Annotated[Float, Field(ge=0, le=MAX_GUIDANCE)]


class Request(SamplerFields):
    """A request for images from one sampler. Equal requests to one model give equal images."""

    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)]
    guidance: Weight
    autoguidance: Weight
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    count: Annotated[int, Field(ge=1, le=MAX_IMAGES)]
    digits: tuple[Annotated[int, Field(ge=0)], ...] | None  # a class per image; None: no classes

    @classmethod
    def of(cls, **values: object) -> Request:
        """A checked request. Raises UserError that names each value out of bounds."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = [explain(dict(problem)) for problem in error.errors()]
            raise UserError("; ".join(problems)) from None

    def labels(self, denoiser: Denoiser) -> torch.Tensor | None:
        """The class of each image, (count,) int64; None for a model without classes.

        Raises UserError for classes that the model does not have, or a wrong number of them.
        """
        classes = denoiser.config.unet.classes
        if not classes:
            return None
        expected = f"digits: expected {self.count} classes from 0 to {classes - 1}"
        if self.digits is None:
            raise UserError(f"{expected}, found none")
        if len(self.digits) != self.count or max(self.digits) >= classes:
            raise UserError(f"{expected}, found {list(self.digits)}")
        return torch.tensor(self.digits)
