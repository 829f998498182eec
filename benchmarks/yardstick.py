"""`python -m benchmarks.yardstick`: how good is the pinned classifier as an instrument?

It trains the classifier with three other seeds. Then all four measure fd_digits of the digits of
several models, from bad to good, next to fd_imagenet. The results are

accuracy     of each classifier on the test digits
agreement    share of test digits that the pinned classifier and another one classify alike
correlation  Spearman's rank correlation over the models: of fd_digits by the pinned classifier with
             fd_digits by each other one, and with fd_imagenet

Needs arrays/ and models/ of a run on MNIST. Writes benchmarks/results/yardstick.json.
"""

from __future__ import annotations

from pathlib import Path

from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.own import changed, mnist, trained
from src import classifier, drawing, model_file, params
from src.classifier import Classifier
from src.common import reports
from src.common.dataset import Dataset
from src.diffusion.denoiser import Denoiser
from src.measure import frechet
from src.measure.extractors import IMAGENET, LoadedExtractor
from tools.machine import describe

RESULT = Path("benchmarks/results/yardstick.json")
COUNT = 2500
SEEDS = (1, 2, 3)
# Models from bad to good: seconds of training, and changes of params.yaml.
MODELS: dict[str, tuple[float, dict]] = {
    "10 seconds": (10, {}),
    "20 seconds": (20, {}),
    "40 seconds": (40, {}),
    "80 seconds": (80, {}),
    "40 seconds, linear schedule": (40, {"schedule": "linear"}),
    "40 seconds, predicts noise": (40, {"model": {"prediction": "epsilon"}}),
    "40 seconds, AdamW for all": (40, {"train": {"muon_lr": None}}),
}


def models(data: Dataset) -> dict[str, Denoiser]:
    """The trained models by name, and the committed one."""
    result = {}
    for name, (seconds, changes) in MODELS.items():
        result[name] = trained(changed(params.load(), changes), data, seconds).model
    result["committed"], _ = model_file.load("models/model.safetensors")
    return result


def distances(
    instrument: Classifier, real: frechet.Moments, drawn: dict[str, Tensor]
) -> list[float]:
    """fd_digits of each set of images by this classifier."""
    features = [classifier.features(instrument, images) for images in drawn.values()]
    return [frechet.distance(frechet.moments(part.numpy()), real) for part in features]


def rank_correlation(one: list[float], other: list[float]) -> float:
    return float(spearmanr(one, other).statistic)


def main() -> None:
    data, p = mnist(), params.load()
    labels = drawing.choose_labels(None, data.class_counts(), 0, COUNT)
    drawn = {
        name: drawing.draw(model, drawing.fitted(p.sample.sampler, model), 0, COUNT, labels)
        for name, model in models(data).items()
    }
    pinned, _ = classifier.load("yardstick/classifier.safetensors")
    real = frechet.load("yardstick/imagenet.npz", IMAGENET.dims)
    network = LoadedExtractor(IMAGENET)
    fd_imagenet = [frechet.distance(network.moments(images), real) for images in drawn.values()]
    digits = frechet.load("yardstick/digits.npz", classifier.FEATURES)
    by_pinned = distances(pinned, digits, drawn)
    heldout = data.heldout_images
    guesses = classifier.predictions(pinned, classifier.features(pinned, heldout))
    others = []
    for seed in SEEDS:
        settings = p.classifier.model_copy(update={"seed": seed})
        other = classifier.fit(data.images, data.labels, settings, "cpu")
        features = classifier.features(other, data.images)
        by_other = distances(other, frechet.moments(features.numpy()), drawn)
        theirs = classifier.predictions(other, classifier.features(other, heldout))
        row = {
            "seed": seed,
            "accuracy": float((theirs == data.heldout_labels).double().mean()),
            "agreement": float((theirs == guesses).double().mean()),
            "correlation": rank_correlation(by_pinned, by_other),
            "fd_digits": dict(zip(drawn, by_other, strict=True)),
        }
        print(row, flush=True)
        others.append(row)
    result = {
        "images": COUNT,
        "accuracy": float((guesses == data.heldout_labels).double().mean()),
        "correlation_with_fd_imagenet": rank_correlation(by_pinned, fd_imagenet),
        "fd_digits": dict(zip(drawn, by_pinned, strict=True)),
        "fd_imagenet": dict(zip(drawn, fd_imagenet, strict=True)),
        "others": others,
    }
    reports.write_json(RESULT, result | describe("torch"))
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
