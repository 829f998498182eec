"""`python -m benchmarks.spoilt`: what does each metric notice? Measure eight spoilt sets of digits.

Sets of real test digits give the mean and standard deviation of each metric. Another such set is
spoilt in eight ways. A metric notices a spoilt set if its value is more than NOTICED standard
deviations from the mean. The classifier and all moments are those of the yardstick.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.tables import table
from src import classifier
from src.common import dataset, reports
from src.common.dataset import Dataset
from src.common.randomness import generator
from src.measure import frechet, greys, scores, strokes
from src.measure.extractors import IMAGENET, LoadedExtractor
from src.measure.kernel import KernelDistance
from src.score.floors import Floors
from tools.machine import describe

COUNT = 1500  # images in a set: more than the 1,280 features of fd_imagenet
SETS = 5
REAL = 5000  # training images to compare with
NOTICED = 5
YARDSTICK = Path("yardstick")


def shifted(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Two pixels to the right."""
    return images.roll(2, dims=3), labels


def blurred(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Each value is a mean with its neighbours."""
    kernel = torch.tensor([1.0, 2.0, 1.0])
    kernel = (kernel[:, None] * kernel / 16)[None, None]
    return F.conv2d(images.float(), kernel, padding=1).round().to(torch.uint8), labels


def thickened(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Each value is the largest of 2x2."""
    return F.max_pool2d(F.pad(images.float(), (1, 0, 1, 0)), 2, 1).to(torch.uint8), labels


def inverted(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Black on white."""
    return 255 - images, labels


def class_missing(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Without the digit 7. Others take its place, so a few occur twice."""
    kept = (labels != 7).nonzero()[:, 0]
    chosen = kept[torch.arange(len(images)) % len(kept)]
    return images[chosen], labels[chosen]


def repeated(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """A tenth of the images, ten times each."""
    chosen = torch.arange(len(images)) % (len(images) // 10)
    return images[chosen], labels[chosen]


def half_noise(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Every second image is uniform noise."""
    random = generator(0, "half noise")
    noise = torch.randint(0, 256, images.shape, dtype=torch.uint8, generator=random)
    images = images.clone()
    images[::2] = noise[::2]
    return images, labels


def resized_twice(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """To 20x20 pixels and back."""
    small = F.interpolate(images.float(), 20, mode="bilinear", antialias=True)
    back = F.interpolate(small, images.shape[-1], mode="bilinear")
    return back.round().to(torch.uint8), labels


SPOILT: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    spoil.__name__.replace("_", " "): spoil
    for spoil in (
        shifted,
        blurred,
        thickened,
        inverted,
        class_missing,
        repeated,
        half_noise,
        resized_twice,
    )
}


class Instruments:
    """All metrics that need no training, with the yardstick and a data set of real digits."""

    def __init__(self, data: Dataset):
        self.data = data
        self.classifier, _ = classifier.load(YARDSTICK / "classifier.safetensors")
        self.digits = frechet.load(YARDSTICK / "digits.npz", classifier.FEATURES)
        self.moments = frechet.load(YARDSTICK / "imagenet.npz", IMAGENET.dims)
        self.imagenet = LoadedExtractor(IMAGENET)
        random = generator(0, "spoilt, real")
        chosen = torch.randperm(len(data.images), generator=random)[:REAL]
        self.real = classifier.features(self.classifier, data.images[chosen])
        self.kernel = KernelDistance(self.imagenet.features(data.images[chosen[:2000]]))
        self.near = Floors.load(YARDSTICK).near

    def measure(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        """Every metric of uint8 images (N, 1, 28, 28) with labels (N,)."""
        features = classifier.features(self.classifier, images)
        deep = self.imagenet.features(images)
        of_digits = scores.scores(features, self.real, self.digits, neighbours=5, seed=0)
        predicted = classifier.predictions(self.classifier, features)
        shares = scores.shares(predicted, self.data.classes)
        of_train = scores.shares(self.data.labels, self.data.classes)
        nearest, _ = scores.nearest_images(images, self.data.images)
        grey = greys.shares(images)
        return {
            "fd_imagenet": frechet.distance(frechet.moments(deep.numpy()), self.moments),
            "kid_imagenet": self.kernel.distance(deep),
            **{name: value for name, value in of_digits.items() if not name.endswith("_sd")},
            "accuracy": classifier.recognised(self.classifier, features, labels),
            "class_distance": scores.total_variation(shares, of_train),
            "broken": strokes.broken(images),
            "memorised": float((nearest < self.near).double().mean()),
            "grey_0": grey["grey_0"],
            "grey_1_3": grey["grey_1_3"],
        }


def measure(data: Dataset) -> dict[str, dict[str, float]]:
    """For "real", "sd" and each spoilt set: every metric, by name."""
    instruments = Instruments(data)
    order = torch.randperm(len(data.heldout_images), generator=generator(0, "spoilt, sets"))
    sets = [
        (data.heldout_images[part], data.heldout_labels[part])
        for part in order[: COUNT * (SETS + 1)].split(COUNT)
    ]
    real = [instruments.measure(*images) for images in sets[1:]]
    names = real[0].keys()
    results = {
        "real": {name: statistics.mean(row[name] for row in real) for name in names},
        "sd": {name: statistics.stdev(row[name] for row in real) for name in names},
    }
    for spoilt, spoil in SPOILT.items():
        results[spoilt] = instruments.measure(*spoil(*sets[0]))
    return results


def noticed(results: dict[str, dict[str, float]], spoilt: str) -> list[str]:
    """The metrics that notice this spoilt set."""
    real, deviation = results["real"], results["sd"]
    return [
        name
        for name, value in results[spoilt].items()
        if abs(value - real[name]) > NOTICED * deviation[name]
    ]


def markdown(result: dict) -> str:
    """The table in docs/metrics.md. Values that a metric notices are bold."""
    values, noticed = result["values"], result["noticed"]
    rows = []
    for name, real in values["real"].items():
        cells = [f"{values[spoilt][name]:.3g}" for spoilt in SPOILT]
        marked = [
            f"**{cell}**" if name in noticed[spoilt] else cell
            for spoilt, cell in zip(SPOILT, cells, strict=True)
        ]
        rows.append([f"`{name}`", f"{real:.3g} +- {values['sd'][name]:.2g}", *marked])
    return table(["metric", "unspoilt", *SPOILT], rows)


def main() -> None:
    warnings.simplefilter("ignore")  # sets of 1,500 images are small on purpose
    values = measure(dataset.load("arrays/dataset.safetensors"))
    table = {spoilt: noticed(values, spoilt) for spoilt in SPOILT}
    result = {"images": COUNT, "sets": SETS, "values": values, "noticed": table}
    reports.write_json("benchmarks/results/spoilt.json", result | describe("torch"))
    print(markdown(result))


if __name__ == "__main__":
    main()
