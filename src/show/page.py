"""The report: one HTML page that needs no network, made from the files of the other stages.

This module only formats results; it computes none.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import jinja2

from .. import provenance

TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Kind:
    """How to show a metric: description, better direction, scale, unit and decimals."""

    what: str
    better: str
    scale: float = 1.0
    unit: str = ""
    digits: int = 2

    def shown(self, value: object) -> str:
        """The value as text; "" for None. Only numbers are scaled and get the unit."""
        if value is None:
            return ""
        if isinstance(value, int | float):
            return f"{value * self.scale:,.{self.digits}f}{self.unit}"
        return str(value)


def percent(what: str, better: str) -> Kind:
    """The Kind of a share in [0, 1], shown in per cent."""
    return Kind(what, better, 100.0, " %")


MEASURES = {
    "fid.fd_imagenet": Kind("Fréchet distance in features of an ImageNet network", "lower"),
    "fid.fd_digits": Kind("Fréchet distance in the digit classifier's features", "lower"),
    "quality.fd_digits_infinity": Kind("the same, extrapolated to infinitely many images", "lower"),
    "fid.fid": Kind("Fréchet distance in Inception features (FID)", "lower"),
    "quality.kid_digits": Kind("kernel distance in the classifier's features", "lower", digits=4),
    "fid.accuracy": percent("recognised as the class asked for", "higher"),
    "quality.precision": percent("precision: generated images that look like a real one", "higher"),
    "quality.recall": percent("recall: real images that look like a generated one", "higher"),
    "quality.density": Kind(
        "density: real neighbourhoods around a generated image, divided by k", "near 1", digits=3
    ),
    "quality.coverage": percent("coverage: real neighbourhoods with a generated image", "higher"),
    "quality.cas": percent("real images recognised after training on generated ones", "higher"),
    "quality.broken": percent("images with broken strokes", "as real images"),
    "quality.grey_0": percent("values that are 0", "as real images"),
    "quality.grey_1_3": percent("values from 1 to 3 of 255", "as real images"),
    "quality.class_distance": Kind(
        "class shares: distance between generated and training images", "lower", digits=4
    ),
    "quality.memorised": percent("images suspiciously near a training image", "as real images"),
    "bound.bits_per_dim": Kind("bits per dimension (variational bound)", "lower", digits=3),
    "train.heldout_loss": Kind("held-out loss", "lower", digits=4),
}
OTHER_FLOORS = {"fid.accuracy": "classifier.heldout_accuracy"}  # floors with another name
# Each entry is one row: one picture as wide as the page, or several narrow ones.
PICTURES = (
    (
        ("samples_by_class", "Generated images, one row per class, not selected."),
        ("reverse_process", "The reverse process, from noise to the finished image."),
    ),
    (
        (
            "learning_curve",
            "Training and held-out loss over optimiser steps, and held-out loss by noise level.",
        ),
    ),
    (
        (
            "quality_over_steps",
            "Samplers with several numbers of steps: quality over network evaluations and time.",
        ),
    ),
    (("schedules", "The noise schedules."),),
    (
        ("loss_by_noise_level", "Held-out loss of the finished model by noise level."),
        (
            "fidelity_by_noise_level",
            "Real images, noised to a log-SNR and denoised from there: the distance that arises.",
        ),
    ),
)
NARROW = {"samples_by_class", "reverse_process", "loss_by_noise_level"}


def measures(metrics: dict[str, dict]) -> list[dict[str, str]]:
    """One row per measure: its value, mean and standard deviation over seeds, and floors.

    `metrics` has the content of each file in metrics/, by its name without .json.
    """
    return [_row(name, kind, metrics) for name, kind in MEASURES.items()]


def _row(name: str, kind: Kind, metrics: dict[str, dict]) -> dict[str, str]:
    """The row of one measure, as text."""
    file, _, key = name.partition(".")
    values = metrics.get(file, {})
    missing = values.get(key) is None
    value = "not measured" if missing else kind.shown(values[key])
    error = values.get(f"{key}_standard_error")
    heldout, train = floors(name, metrics)
    return {
        "name": name,
        "what": kind.what,
        "better": kind.better,
        "value": f"{value} ± {kind.shown(error)}" if error is not None else value,
        "spread": _over_seeds(key, kind, metrics.get("spread", {})),
        "heldout": "" if missing else kind.shown(heldout),
        "train": "" if missing else kind.shown(train),
    }


def floors(name: str, metrics: dict[str, dict]) -> tuple[float | None, float | None]:
    """The score of held-out and of training images by a measure; None if there is none."""
    file, _, key = name.partition(".")
    other_file, _, other_key = OTHER_FLOORS.get(name, "").partition(".")
    values, other = metrics.get(file, {}), metrics.get(other_file, {}).get(other_key)
    return values.get(f"{key}_floor_heldout", other), values.get(f"{key}_floor_train")


def _over_seeds(key: str, kind: Kind, spread: dict) -> str:
    """Mean and standard deviation over seeds; "" if one is missing."""
    mean, deviation = spread.get(f"{key}_mean"), spread.get(f"{key}_sd")
    if mean is None or deviation is None:
        return ""
    return f"{kind.shown(mean)} ± {kind.shown(deviation)}"


def sections(values: dict) -> list[dict]:
    """Parameters by section. Parameters without a section come first."""
    plain = {key: value for key, value in values.items() if not isinstance(value, dict)}
    return [{"name": "general", "entries": list(plain.items())}] + [
        {"name": name, "entries": list(section.items())}
        for name, section in values.items()
        if isinstance(section, dict)
    ]


def source(picture: Path) -> str:
    """The PNG as a data URL."""
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()


def render(
    title: str,
    lead: str,
    run: list[tuple[str, str]],
    metrics: dict[str, dict],
    figures: Path,
    parameters: dict,
    experiments: dict | None,
) -> str:
    """The whole page as HTML.

    `run` has names and values for the first table. `figures` is the folder with the PNGs.
    `experiments` has `columns`, `rows` of cells, and `parameters`, the number of columns before
    the metrics. It is None if there are no experiments.
    """
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    spread, quality = metrics["spread"], metrics["quality"]
    unequal = provenance.unequal(quality["images"], quality["images_floor_heldout"])
    return template.render(
        title=title,
        lead=lead,
        run=run,
        measures=measures(metrics),
        parameters=sections(parameters),
        experiments=experiments,
        seeds=f"over {spread['seeds']} seeds",
        pictures=[_picture_row(row, figures) for row in PICTURES],
        about_measures=(
            f"There are {quality['images_floor_heldout']:,} held-out real images. "
            f"{f'{unequal}. ' if unequal else ''}± is the "
            f"standard deviation over sampling seeds of this model, or a standard error. "
            f"Definitions, ranges and sources: docs/metrics.md."
        ),
    )


def _picture_row(row: tuple[tuple[str, str], ...], figures: Path) -> dict:
    """One row of PICTURES for the template."""
    shown = [
        {"source": source(figures / f"{name}.png"), "caption": caption} for name, caption in row
    ]
    return {"narrow": row[0][0] in NARROW, "shown": shown}
