"""Typed, validated parameters: params.yaml in, frozen objects out. Does not know which stage reads what."""

from __future__ import annotations

import re
import reprlib
from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from src.common.errors import UserError

MOST_TIMESTEPS = 100_000
MOST_ETA = {"ddim": 1.0, "sde-dpmsolver++": 2.0, "sa-solver": 2.0}  # of other methods eta has no meaning
MOST_TOLD = 500  # characters of what was found: YAML's aliases can make a few bytes very large


def _read_exponent(value: object) -> object:
    """PyYAML follows YAML 1.1, where 1e-05 is a string, and that is how DVC writes small numbers."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Float = Annotated[float, BeforeValidator(_read_exponent), Field(allow_inf_nan=False)]
Positive = Annotated[Float, Field(gt=0)]
NotNegative = Annotated[Float, Field(ge=0)]
Fraction = Annotated[Float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Few = Annotated[int, Field(ge=1, le=4096)]  # where more would only fill the memory
Images = Annotated[int, Field(ge=1, le=2**20)]  # at a time
Index = Annotated[int, Field(ge=0, lt=2**63)]


def _ascending(interval: list[float]) -> list[float]:
    if interval[0] > interval[1]:
        raise ValueError(f"expected [low, high], found {interval}")
    return interval


Interval = Annotated[list[Float], Field(min_length=2, max_length=2), AfterValidator(_ascending)]


# What src/diffusion has, said again: nothing of the network is imported to check a file.
Method = Literal["ddpm", "ddim", "dpmsolver++", "sde-dpmsolver++", "sa-solver"]
Spacing = Literal["leading", "trailing", "logsnr"]
Precision = Literal["auto", "float32", "bfloat16"]


def _sampler_exists(name: str) -> str:
    found = re.fullmatch(r"(\S+) (\S+)( \d+(\.\d+)?)?", name)
    if not found or found[1] not in get_args(Method) or found[2] not in get_args(Spacing):
        raise ValueError(
            f'expected "METHOD SPACING" or "METHOD SPACING ETA", such as "sa-solver logsnr 1", where METHOD is one of '
            f"{', '.join(get_args(Method))} and SPACING one of {', '.join(get_args(Spacing))}; found {name!r}"
        )
    most = MOST_ETA.get(found[1])
    if found[3] and (most is None or float(found[3]) > most):
        allowed = "no eta" if most is None else f"an eta of at most {most:g}"
        raise ValueError(f"expected {allowed} for {found[1]}, found {name!r}")
    return name


SamplerName = Annotated[str, AfterValidator(_sampler_exists)]  # method, spacing, and eta where it is not 0


class _PlainLoader(yaml.SafeLoader):
    """Without aliases: with them a few bytes can unfold to any amount of memory."""

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases such as *{self.peek_event().anchor} are not accepted; write the value out")
        return super().compose_node(parent, index)


class Section(BaseModel):
    """Keys are all required, typed strictly, and no others are accepted: params.yaml is the one place of defaults."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Unpack(Section):
    heldout: Annotated[Float, Field(gt=0, lt=1)]
    seed: Index


class Model(Section):
    patch_size: Few
    base_channels: Annotated[int, Field(ge=4, le=4096, multiple_of=4)]
    multipliers: Annotated[list[Annotated[int, Field(ge=1, le=64)]], Field(min_length=1, max_length=10)]
    res_blocks: Annotated[int, Field(ge=1, le=64)]
    attention_resolutions: list[Count]
    heads: Few
    dropout: Fraction
    time_width: Annotated[int, Field(ge=2, le=2**16, multiple_of=2)]
    prediction: Literal["epsilon", "v", "x0"]
    conditional: bool
    label_dropout: Fraction


class Train(Section):
    steps: Count
    max_epochs: Positive
    batch_size: Images
    lr: Positive
    muon_lr: Positive | None
    weight_decay: NotNegative
    warmup_steps: Index
    grad_clip: Positive
    accumulation: Count
    precision: Precision
    ema: bool
    ema_length: Annotated[Float, Field(gt=0, le=1)]
    guide_at: Fraction
    focus: Fraction
    focus_at: Annotated[Float, Field(ge=0, le=1)]
    augment_rotation: Annotated[Float, Field(ge=0, le=45)]
    augment_shift: NotNegative
    workers: Annotated[int, Field(ge=0, le=256)]
    evaluate_interval: Count
    sample_interval: Count
    checkpoint_interval: Count

    @model_validator(mode="after")
    def _accumulation_divides(self) -> Train:
        if self.batch_size % self.accumulation:
            raise ValueError(f"accumulation ({self.accumulation}) must divide batch_size ({self.batch_size})")
        return self


class Sample(Section):
    method: Method
    steps: Count
    spacing: Spacing
    eta: Annotated[Float, Field(ge=0, le=max(MOST_ETA.values()))]
    guidance: NotNegative
    guidance_interval: Interval | None
    autoguidance: NotNegative
    autoguidance_interval: Interval | None
    classes: Annotated[list[Index], Field(min_length=1)] | None
    count: Annotated[int, Field(ge=2, le=99_999)]
    batch_size: Images
    precision: Precision
    seed: Index

    @model_validator(mode="after")
    def _eta_is_of_the_method(self) -> Sample:
        if self.eta > MOST_ETA.get(self.method, self.eta):
            raise ValueError(f"eta ({self.eta}) must not exceed {MOST_ETA[self.method]:g} for {self.method}")
        return self


class Classifier(Section):
    epochs: Count
    batch_size: Images
    lr: Positive
    dropout: Fraction
    seed: Index


class Fid(Section):
    inception: Literal["auto", "always", "never"]
    statistics: Annotated[str, Field(pattern=r"^[^/\\]+\.npz$")] | None
    batch_size: Images


class Quality(Section):
    neighbours: Count
    seed: Index


class Spread(Section):
    seeds: Few


class Sweep(Section):
    samplers: Annotated[list[SamplerName], Field(min_length=1)]
    steps: Annotated[list[Count], Field(min_length=1)]
    guidance: NotNegative
    guidance_interval: Interval | None
    autoguidance: NotNegative
    autoguidance_interval: Interval | None
    count: Annotated[int, Field(ge=2)]
    precision: Precision
    seed: Index


class Bound(Section):
    images: Annotated[int, Field(ge=2)]
    seed: Index


class Figures(Section):
    process_images: Annotated[int, Field(ge=1, le=16)]  # the sample stage keeps the way of so many
    process_steps: Annotated[int, Field(ge=2, le=100)]
    grid_per_class: Annotated[int, Field(ge=1, le=100)]
    dpi: Annotated[int, Field(ge=30, le=1200)]


class Params(Section):
    launcher: Annotated[str, Field(min_length=1)]
    seed: Index
    schedule: Literal["linear", "cosine"]
    timesteps: Annotated[int, Field(ge=2, le=MOST_TIMESTEPS)]
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
    bound: Bound
    figures: Figures

    @model_validator(mode="after")
    def _consistent(self) -> Params:
        if self.beta_start > self.beta_end:
            raise ValueError(f"beta_start ({self.beta_start}) must not exceed beta_end ({self.beta_end})")
        for key, section in (("sample", self.sample), ("sweep", self.sweep)):
            if section.autoguidance != 1 and self.train.guide_at == 0:
                raise ValueError(
                    f"{key}.autoguidance ({section.autoguidance}) must be 1 where train.guide_at is 0: there is no guide"
                )
            if section.guidance != 1 and self.model.conditional and self.model.label_dropout == 0:
                raise ValueError(
                    f"{key}.guidance ({section.guidance}) must be 1 where model.label_dropout is 0: all are seen with class"
                )
        for key, steps in (("sample.steps", self.sample.steps), ("sweep.steps", max(self.sweep.steps))):
            if steps > self.timesteps:
                raise ValueError(f"{key} ({steps}) must not exceed timesteps ({self.timesteps})")
        return self


def load(path: str | Path = "params.yaml") -> Params:
    """All parameters, checked as a whole, so that a mistake in `sample` is told before hours of `train`.

    Raises UserError that names the file and each offending key.
    """
    path = Path(path)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run from the root of the repository") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; `git checkout {path}` brings the file back") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        # but for the first these are of odd numbers, dates and nesting
        raise UserError(f"{path}: not valid YAML: {str(error)[:MOST_TOLD]}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected a mapping of keys to values, found {type(raw).__name__}")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{path}:\n" + "\n".join(_explain(problem) for problem in error.errors())) from None


def _explain(problem: dict) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "(the whole file)"
    if problem["type"] == "extra_forbidden":
        return f"  {key}: unknown key; remove it or correct its spelling"
    if problem["type"] == "missing":
        return f"  {key}: missing; `git diff params.yaml` shows what was there"
    if problem["type"] == "value_error":
        return f"  {key}: {problem['ctx']['error']}"
    try:
        found = reprlib.repr(problem["input"])
    except ValueError:  # Python does not write out numbers of more than 4,300 digits
        found = "a number of thousands of digits"
    return f"  {key}: {problem['msg'][0].lower()}{problem['msg'][1:]}; found {found[:MOST_TOLD]}"
