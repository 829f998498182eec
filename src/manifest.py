"""The manifest of generated images: which model drew them, with which sampler, seed and classes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from . import provenance
from .common import artifact, reports
from .common.dataset import names_of_classes
from .common.errors import UserError
from .common.schema import parse
from .diffusion.samplers import Sampler
from .params import Sample

REMEDY = "`dvc repro` makes it again"
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
    """The stage `sample` writes this record about its images."""

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
    asked_classes: list[int | str] | None  # sample.classes
    asked_precision: str  # sample.precision
    classes: int  # of the model; 0: unconditional
    labels: list[int] | None  # the class of each image
    class_names: list[str] | None = None  # None: their numbers

    @property
    def names(self) -> list[str]:
        """The names of the classes; their numbers if they have none."""
        return names_of_classes(self.class_names, self.classes)

    def save(self, path: str | Path) -> None:
        """Write JSON. The sampler's fields are keys next to the others."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= asdict(self.sampler)
        keys = KEYS if self.class_names is None else (*KEYS, "class_names")
        reports.write_json(path, artifact.versioned({key: values[key] for key in keys}))

    def sampler_text(self) -> str:
        """The sampler's settings in one line, for figures."""
        s = self.sampler
        text = f"{s.method}, {s.steps} steps, {s.spacing}, eta {s.eta:g}, {self.schedule} schedule"
        for name in ("guidance", "autoguidance"):
            text += f", {name} {getattr(s, name):g}"
            interval = getattr(s, f"{name}_interval")
            text += f" in {list(interval)}" if interval else ""
        return text


def load(path: str | Path) -> Manifest:
    """Read a manifest. Raises UserError if the file is missing or is no valid manifest."""
    raw = provenance.read(path, dict)
    artifact.check_version(raw, path, REMEDY)
    sampler = {key: raw.pop(key) for key in SAMPLER_KEYS if key in raw}
    try:
        manifest = parse(Manifest, raw | {"sampler": sampler})
    except ValueError as error:
        raise UserError(f"{path}: {error}; {REMEDY}") from None
    if manifest.labels is not None and len(manifest.labels) != manifest.count:
        raise UserError(
            f"{path}: labels: expected null or one for each of {manifest.count} images; {REMEDY}"
        )
    if manifest.class_names is not None and len(manifest.class_names) != manifest.classes:
        raise UserError(
            f"{path}: class_names: expected one for each of {manifest.classes} classes; {REMEDY}"
        )
    return manifest


def check_settings(manifest: Manifest, settings: Sample) -> None:
    """Raises UserError that names the key, unless the images were drawn with these settings."""
    wanted = settings.sampler
    if not manifest.classes:  # guidance has no effect
        wanted = replace(wanted, guidance=manifest.sampler.guidance)
    pairs = {
        name: (getattr(manifest.sampler, name), value) for name, value in asdict(wanted).items()
    }
    pairs |= {
        "seed": (manifest.seed, settings.seed),
        "count": (manifest.count, settings.count),
        "classes": (manifest.asked_classes, settings.classes),
        "precision": (manifest.asked_precision, settings.precision),
    }
    remedy = "`dvc repro` draws with the settings of params.yaml"
    for key, (found, expected) in pairs.items():
        provenance.expect(f"generated_images/, sample.{key}", found, expected, remedy)
