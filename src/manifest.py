"""The manifest of generated images: which model drew them, with which sampler, seed and classes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from . import provenance
from .common import artifact, reports
from .common.errors import UserError
from .diffusion.samplers import Sampler
from .params import Sample

REMEDY = "`dvc repro` makes it anew"
SAMPLER_KEYS = tuple(field.name for field in fields(Sampler))
KEYS = (
    "dataset",
    "dataset_fingerprint",
    "model",
    "pixels",
    *SAMPLER_KEYS,
    "timesteps",
    "evaluations",
    "precision",
    "seed",
    "count",
    "schedule",
    "prediction",
    "asked_classes",
    "asked_precision",
    "classes",
    "labels",
)


@dataclass(frozen=True)
class Manifest:
    """What the stage `sample` says about its images. Counts and classes as in params.yaml."""

    dataset: str
    dataset_fingerprint: str
    model: str  # digest of the model file
    pixels: str  # digest of all images
    sampler: Sampler
    timesteps: list[int]
    evaluations: int  # per image
    precision: str  # float32 or bfloat16
    seed: int
    count: int
    schedule: str
    prediction: str
    asked_classes: list[int] | None  # sample.classes
    asked_precision: str  # sample.precision
    classes: int  # of the model; 0: unconditional
    labels: list[int] | None  # the class of each image

    def save(self, path: str | Path) -> None:
        """Write JSON, the sampler's fields among the others."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= asdict(self.sampler)
        reports.write_json(path, artifact.versioned({key: values[key] for key in KEYS}))

    def sampler_text(self) -> str:
        """The sampler in a line, for figures."""
        s = self.sampler
        text = f"{s.method}, {s.steps} steps, {s.spacing}, eta {s.eta:g}, {self.schedule} schedule"
        for name in ("guidance", "autoguidance"):
            text += f", {name} {getattr(s, name):g}"
            interval = getattr(s, f"{name}_interval")
            text += f" in {list(interval)}" if interval else ""
        return text


def load(path: str | Path) -> Manifest:
    """The manifest in a file. Raises UserError for anything else."""
    raw = provenance.read(path, KEYS)
    artifact.check_version(raw, path, REMEDY)
    labels, count = raw["labels"], raw["count"]
    if labels is not None and (not isinstance(labels, list) or len(labels) != count):
        raise UserError(
            f"{path}: labels: expected null or one for each of {count} images; {REMEDY}"
        )
    settings = {key: raw.pop(key) for key in SAMPLER_KEYS}
    try:
        lists = {key: tuple(value) for key, value in settings.items() if isinstance(value, list)}
        sampler = Sampler(**settings | lists)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: no sampler of ours ({error}); {REMEDY}") from None
    names = {field.name for field in fields(Manifest)} - {"sampler"}
    return Manifest(sampler=sampler, **{name: raw[name] for name in names})


def check_settings(manifest: Manifest, settings: Sample) -> None:
    """Raises UserError that names the key, unless the images were drawn with these settings."""
    wanted = settings.sampler
    if not manifest.classes:  # nothing to guide by
        wanted = replace(wanted, guidance=manifest.sampler.guidance)
    remedy = "`dvc repro` draws as params.yaml says"
    others = {
        "seed": (manifest.seed, settings.seed),
        "count": (manifest.count, settings.count),
        "classes": (manifest.asked_classes, settings.classes),
        "precision": (manifest.asked_precision, settings.precision),
    }
    found, expected = asdict(manifest.sampler), asdict(wanted)
    for key, pair in {name: (found[name], expected[name]) for name in found}.items():
        provenance.expect(f"generated_images/, sample.{key}", *pair, remedy)
    for key, pair in others.items():
        provenance.expect(f"generated_images/, sample.{key}", *pair, remedy)
