"""Typed, validated parameters: params.yaml in, frozen objects out.

This file only checks values. No result depends on it, so no stage declares it as a dependency.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)

from .common import yaml12
from .common.dataset import MAX_SIDE
from .common.errors import UserError
from .common.schema import MAX_SHOWN, explain
from .diffusion import weighting
from .diffusion.denoiser import Prediction
from .diffusion.samplers import Interval as IntervalHint
from .diffusion.samplers import Sampler
from .diffusion.schedule import MAX_TIMESTEPS, Schedule, ScheduleConfig, ScheduleName
from .diffusion.times import Times


def _read_pair(value: object) -> object:
    if isinstance(value, list | tuple) and len(value) != 2:
        raise ValueError(f"expected [low, high], found {list(value)}")
    return tuple(value) if isinstance(value, list) else value


def _ascending(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] > interval[1]:
        raise ValueError(f"expected [low, high], found {list(interval)}")
    return interval


Float = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[Float, Field(gt=0)]
NotNegative = Annotated[Float, Field(ge=0)]
Fraction = Annotated[Float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Few = Annotated[int, Field(ge=1, le=4096)]  # more would only fill the memory
BatchSize = Annotated[int, Field(ge=1, le=2**20)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Interval = Annotated[tuple[Float, Float], BeforeValidator(_read_pair), AfterValidator(_ascending)]
Precision = Literal["auto", "float32", "bfloat16"]
Labels = Literal["auto", "folders", "none"]
Split = Literal["auto", "random"]
Background = Literal["black", "white"]
Transpose = Literal["auto", "always", "never"]
Measure = Literal["auto", "always", "never"]
Weights = Literal["pinned", "trained"]


class Section(BaseModel):
    """A section of params.yaml. All keys are required and have strict types; others are errors.

    So every default is in params.yaml, and nowhere else.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Unpack(Section):
    heldout: Annotated[Float, Field(gt=0, lt=1)]
    seed: Seed
    labels: Labels
    split: Split
    size: Annotated[int, Field(ge=1, le=MAX_SIDE)] | None
    background: Background
    transpose: Transpose
    max_files: Count
    max_gib: Annotated[Float, Field(gt=0, le=2**20)]


class Model(Section):
    patch_size: Few
    base_channels: Annotated[int, Field(ge=4, le=4096, multiple_of=4)]
    multipliers: Annotated[
        list[Annotated[int, Field(ge=1, le=64)]], Field(min_length=1, max_length=10)
    ]
    res_blocks: Annotated[int, Field(ge=1, le=64)]
    attention_resolutions: list[Count] | None
    heads: Few
    dropout: Fraction
    time_width: Annotated[int, Field(ge=2, le=2**16, multiple_of=2)]
    prediction: Prediction | Literal["auto"]
    conditional: bool
    label_dropout: Fraction
    margin: Annotated[Float, Field(ge=0, le=1)]


def _times_exist(name: str) -> str:
    assert name == "auto" or Times.named(name)
    return name


def _weighting_exists(name: str) -> str:
    assert weighting.parse(name)
    return name


class Train(Section):
    steps: Count
    max_epochs: Positive
    batch_size: BatchSize
    lr: Positive
    muon_lr: Positive | None
    weight_decay: NotNegative
    warmup_steps: Seed
    grad_clip: Positive
    accumulation: Count
    precision: Precision
    ema: bool
    ema_length: Annotated[Float, Field(gt=0, le=1)]
    guide_at: Fraction
    times: Annotated[str, AfterValidator(_times_exist)]
    weighting: Annotated[str, AfterValidator(_weighting_exists)]
    augment_rotation: Annotated[Float, Field(ge=0, le=45)]
    augment_shift: NotNegative
    workers: Annotated[int, Field(ge=0, le=256)]
    evaluate_interval: Count
    sample_interval: Count
    checkpoint_interval: Count

    @model_validator(mode="after")
    def _accumulation_divides(self) -> Train:
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"accumulation ({self.accumulation}) must divide batch_size ({self.batch_size})"
            )
        return self


_STRICT: dict[object, Any] = {int: Count, float: Float, IntervalHint | None: Interval | None}
_SAMPLER_FIELDS: dict[str, Any] = {
    name: (_STRICT.get(hint, hint), ...) for name, hint in get_type_hints(Sampler).items()
}


class _MakesSampler(Section):
    """Base of the sections that have the fields of a Sampler. The Sampler checks their values."""

    @property
    def sampler(self) -> Sampler:
        return Sampler(**{field.name: getattr(self, field.name) for field in fields(Sampler)})

    @model_validator(mode="after")
    def _check_sampler(self) -> _MakesSampler:
        assert self.sampler
        return self


# The keys are the fields of Sampler, so a new field needs no second definition here.
SamplerFields: Any = create_model(
    "SamplerFields",
    __base__=_MakesSampler,
    **_SAMPLER_FIELDS,
)


class Sample(SamplerFields):
    classes: Annotated[list[Seed | Name], Field(min_length=1)] | None
    count: Annotated[int, Field(ge=2, le=99_999)]
    batch_size: BatchSize
    precision: Precision
    seed: Seed


class Classifier(Section):
    weights: Weights
    epochs: Count
    batch_size: BatchSize
    lr: Positive
    dropout: Fraction
    seed: Seed


class Fid(Section):
    imagenet: Measure
    inception: Measure
    statistics: Annotated[str, Field(pattern=r"^[^/\\]+\.npz$")] | None
    batch_size: BatchSize


class Quality(Section):
    neighbours: Count
    seed: Seed


class Spread(Section):
    seeds: Few


def _sampler_exists(name: str) -> str:
    assert Sampler.named(name, steps=1)
    return name


class Sweep(Section):
    samplers: Annotated[list[Annotated[str, AfterValidator(_sampler_exists)]], Field(min_length=1)]
    steps: Annotated[list[Count], Field(min_length=1)]
    guidance: NotNegative
    guidance_interval: Interval | None
    autoguidance: NotNegative
    autoguidance_interval: Interval | None
    count: Annotated[int, Field(ge=2)]
    precision: Precision
    seed: Seed

    def sampler(self, name: str, steps: int) -> Sampler:
        """The sampler with this name (one of `samplers`) and this number of steps."""
        return Sampler.named(
            name,
            steps,
            guidance=self.guidance,
            guidance_interval=self.guidance_interval,
            autoguidance=self.autoguidance,
            autoguidance_interval=self.autoguidance_interval,
        )


class Fidelity(Section):
    log_snr: Annotated[list[Float], Field(min_length=1, max_length=100)]
    images: Annotated[int, Field(ge=2)]
    seed: Seed


class Bound(Section):
    images: Annotated[int, Field(ge=2)]
    seed: Seed


class Distill(Section):
    students: Annotated[list[Count], Field(min_length=1, max_length=10)]
    steps: Count
    adversarial_steps: Annotated[int, Field(ge=0)]
    lr: Positive
    seed: Seed

    @model_validator(mode="after")
    def _halves(self) -> Distill:
        pairs = zip(self.students, self.students[1:], strict=False)
        if any(first != 2 * second for first, second in pairs):
            raise ValueError(
                f"students: expected each half of the one before, such as [8, 4, 2, 1], "
                f"found {self.students}"
            )
        return self


class Figures(Section):
    process_images: Annotated[int, Field(ge=1, le=16)]  # `sample` keeps 16 trajectories
    process_steps: Annotated[int, Field(ge=2, le=100)]
    grid_per_class: Annotated[int, Field(ge=1, le=100)]
    dpi: Annotated[int, Field(ge=30, le=1200)]


class Params(Section):
    launcher: Annotated[str, Field(min_length=1)]
    seed: Seed
    schedule: ScheduleName
    timesteps: Annotated[int, Field(ge=2, le=MAX_TIMESTEPS)]
    beta_start: Annotated[Float, Field(gt=0, lt=1)]
    beta_end: Annotated[Float, Field(gt=0, lt=1)]
    cosine_s: NotNegative
    unpack: Unpack
    model: Model
    train: Train
    sample: Sample
    classifier: Classifier
    fid: Fid
    quality: Quality
    spread: Spread
    sweep: Sweep
    fidelity: Fidelity
    bound: Bound
    distill: Distill
    figures: Figures

    @model_validator(mode="after")
    def _makes_a_schedule(self) -> Params:
        if self.beta_start > self.beta_end:
            raise ValueError(
                f"beta_start ({self.beta_start}) must not exceed beta_end ({self.beta_end})"
            )
        config = ScheduleConfig(
            self.schedule, self.timesteps, self.beta_start, self.beta_end, self.cosine_s
        )
        assert Schedule(config)
        return self

    @model_validator(mode="after")
    def _model_can_be_sampled(self) -> Params:
        label_dropout = self.model.label_dropout if self.model.conditional else None
        self._check_guidance("sample", self.sample.sampler, label_dropout)
        for steps in self.sweep.steps:
            sampler = self.sweep.sampler(self.sweep.samplers[0], steps)
            self._check_guidance("sweep", sampler, label_dropout)
        return self

    def _check_guidance(self, key: str, sampler: Sampler, label_dropout: float | None) -> None:
        if sampler.autoguidance != 1 and self.train.guide_at == 0:
            raise ValueError(
                f"{key}.autoguidance ({sampler.autoguidance}) must be 1 where train.guide_at is 0: "
                f"there is no guide"
            )
        if sampler.guidance != 1 and label_dropout == 0:
            raise ValueError(
                f"{key}.guidance ({sampler.guidance}) must be 1 where model.label_dropout is 0: "
                f"the model never trains without a class"
            )
        if sampler.steps > self.timesteps:
            raise ValueError(
                f"{key}.steps ({sampler.steps}) must not exceed timesteps ({self.timesteps})"
            )


def load(path: str | Path = "params.yaml") -> Params:
    """Read and check all parameters at once, so a mistake in `sample` shows before `train` runs.

    Raises UserError that names the file and every wrong key.
    """
    path = Path(path)
    try:
        raw = yaml12.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run from the root of the repository") from None
    except IsADirectoryError:
        raise UserError(
            f"{path}: is a folder; `git checkout {path}` brings the file back"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML: {str(error)[:MAX_SHOWN]}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected a mapping of keys to values, got {type(raw).__name__}")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        missing = "missing; `git diff params.yaml` shows what was there"
        problems = [f"  {explain(dict(problem), missing)}" for problem in error.errors()]
        raise UserError(f"{path}:\n" + "\n".join(problems)) from None
