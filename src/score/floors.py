"""What real test digits score, by number of images: the floors of somebody else's digits."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch

from ..common import reports
from ..common.dataset import Dataset
from ..common.errors import UserError
from ..common.randomness import generator
from ..common.schema import parse
from ..measure import scores
from .measure import SEED, Instrument, Scores, Value

COUNTS = (500, 1000, 2000, 5000, 10_000)
SETS = 5  # of different test digits
FILE = "floors.json"


@dataclass(frozen=True)
class Floors:
    """Of yardstick/floors.json."""

    near: float  # distance to a training image below which an image counts as memorised
    by_count: dict[str, dict[str, tuple[float, float | None]]]

    @classmethod
    def load(cls, folder: Path) -> Floors:
        """Raises UserError if the file is missing or damaged."""
        path = folder / FILE
        try:
            return parse(cls, json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: {error}; `git checkout yardstick` brings it back") from None

    def nearest(self, count: int) -> tuple[int, Scores]:
        """The stored floors of the nearest count, by ratio."""
        near = min(map(int, self.by_count), key=lambda n: max(n / count, count / n))
        values = self.by_count[str(near)]
        return near, {name: Value(*pair) for name, pair in values.items()}


def of_real(
    instrument: Instrument, data: Dataset, count: int, near: float, index: int = 0
) -> Scores:
    """Scores of `count` random test digits.

    Sets of different `index` share no digits. (index + 1) * count must not exceed their number.
    """
    order = torch.randperm(len(data.heldout_images), generator=generator(SEED, "scored"))
    chosen = order[index * count : (index + 1) * count]
    images, labels = data.heldout(chosen)
    return instrument.measure(images, labels, data, near)


def mean(values: list[Value]) -> Value:
    """The mean value, and the root mean square deviation of one."""
    deviations = [value.deviation for value in values if value.deviation is not None]
    squares = [deviation**2 for deviation in deviations]
    return Value(
        statistics.mean(value.value for value in values),
        math.sqrt(statistics.mean(squares)) if squares else None,
    )


def make(instrument: Instrument, data: Dataset, folder: Path) -> None:
    """Measure the floors for all COUNTS, and write the file. Each is a mean over SETS, or fewer."""
    distances, _ = scores.nearest_images(data.heldout_images, data.images)
    near = float(distances.quantile(scores.NEAR))
    by_count = {}
    for count in COUNTS:
        sets = min(SETS, len(data.heldout_images) // count)
        found = [of_real(instrument, data, count, near, index) for index in range(sets)]
        means = {name: mean([one[name] for one in found]) for name in found[0]}
        by_count[str(count)] = {name: (v.value, v.deviation) for name, v in means.items()}
    reports.write_json(folder / FILE, {"near": near, "by_count": by_count})
