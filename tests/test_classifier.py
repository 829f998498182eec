import pytest
import torch

from src import classifier
from src.classifier import Classifier, ClassifierConfig
from src.common.errors import UserError
from src.measure import frechet


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = (torch.from_numpy(raw.images) * 255 / 16).round().to(torch.uint8)[:, None]
    return images, torch.from_numpy(raw.target).long()


def moments(model, images):
    return frechet.moments(classifier.features(model, images).numpy())


def train(images, labels, settings):
    for model, _ in classifier.train(images, labels, settings, "cpu"):
        pass
    return model


@pytest.fixture(scope="module")
def trained(digits):
    from src.params import load
    from tests.helpers import ROOT

    images, labels = digits
    return train(images[:1400], labels[:1400], load(ROOT / "params.yaml").classifier)


def test_digits_are_recognised(trained, digits):
    assert classifier.accuracy(trained, digits[0][1400:], digits[1][1400:]) > 0.93


def test_accuracy_is_the_share_of_right_answers(trained, digits, monkeypatch):
    images, labels = digits[0][1400:1500], digits[1][1400:1500]
    wrong = (labels + 1) % 10
    right = round(classifier.accuracy(trained, images, labels) * 100)
    half_wrong = torch.cat([labels[:50], wrong[50:]])
    monkeypatch.setattr(classifier, "BATCH", 7)
    assert classifier.accuracy(trained, images, half_wrong) < right / 100
    assert classifier.accuracy(trained, images, labels) * 100 == pytest.approx(right)


def test_distance_grows_with_noise_and_shift_and_lost_classes(trained, digits):
    images, labels = digits
    reference = moments(trained, images[:900])

    def score(pixels: torch.Tensor) -> float:
        return frechet.distance(moments(trained, pixels), reference)

    rest = images[900:]
    noise = torch.randn(rest.shape, generator=torch.Generator().manual_seed(0))
    noisy = [
        score((rest + noise * amount).clamp(0, 255).to(torch.uint8)) for amount in (0, 20, 50, 100)
    ]
    shifted = [score(rest.roll(amount, dims=3)) for amount in (0, 1, 2, 3)]
    fewer = [score(rest[labels[900:] < classes]) for classes in (10, 7, 4, 1)]
    for scores in (noisy, shifted, fewer):
        assert scores == sorted(scores) and scores[-1] > 2 * scores[0]


def test_equal_seeds_give_equal_classifiers(digits, params):
    settings = params.classifier.model_copy(update={"epochs": 1})
    one, same = (train(digits[0][:300], digits[1][:300], settings) for _ in range(2))
    other = train(digits[0][:300], digits[1][:300], settings.model_copy(update={"seed": 1}))
    assert torch.equal(one.last.weight, same.last.weight)
    assert not torch.equal(one.last.weight, other.last.weight)


@pytest.mark.slow
def test_without_labels_it_learns_rotations(digits, params):
    model = train(digits[0][:300], None, params.classifier)
    assert model.config.pretext == "rotations" and model.config.classes == 4
    assert classifier.accuracy(model, digits[0][600:900], None) > 0.7  # guessing: 0.25


@pytest.mark.parametrize("limit", ["BATCH", "BATCH_PIXELS"])
def test_features_do_not_depend_on_the_batch_size(trained, digits, monkeypatch, limit):
    whole = classifier.features(trained, digits[0])
    monkeypatch.setattr(classifier, limit, {"BATCH": 77, "BATCH_PIXELS": 77 * 64}[limit])
    batches = list(classifier.feature_batches(trained, digits[0]))
    assert len(batches[0]) == 77
    parts = torch.cat(batches)
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-4)
    assert whole.shape == (1797, classifier.FEATURES) and whole.dtype == torch.float32


def test_features_speak_for_the_classes_that_the_classifier_gives(trained, digits):
    images, labels = digits[0][1400:], digits[1][1400:]
    features = classifier.features(trained, images)
    share = classifier.recognised(trained, features, labels)
    assert share == pytest.approx(classifier.accuracy(trained, images, labels))
    assert classifier.recognised(trained, features, None) is None


def test_a_saved_classifier_gives_the_same_features(trained, digits, tmp_path):
    classifier.save(trained, tmp_path / "c", {"dataset": "digits"})
    loaded, about = classifier.load(tmp_path / "c")
    assert about == {"dataset": "digits"} and loaded.config == trained.config
    images = digits[0][:200]
    assert torch.equal(classifier.features(loaded, images), classifier.features(trained, images))


@pytest.mark.parametrize("size, channels", [(8, 1), (28, 1), (32, 3), (12, 3)])
def test_any_size_and_colour_will_do(size, channels):
    model = Classifier(ClassifierConfig(size, channels, 5, "labels", 0.0))
    assert model(torch.zeros(2, channels, size, size)).shape == (2, 5)
    assert model.features(torch.zeros(2, channels, size, size)).shape == (2, classifier.FEATURES)


def test_a_damaged_classifier_is_named(tmp_path):
    (tmp_path / "c").write_bytes(b"\1" * 64)
    with pytest.raises(UserError, match="c: damaged.*dvc repro classifier"):
        classifier.load(tmp_path / "c")
