"""Model files and manifests name their kind. Files of another kind are refused by name."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from src import classifier, manifest, model_file
from src.common import artifact
from src.common.errors import UserError
from src.diffusion.samplers import Sampler
from src.drawing import draw
from src.manifest import Manifest
from tests.helpers import denoiser, unet_config
from tests.test_denoiser import with_guide

MANIFEST = Manifest(
    dataset="own",
    dataset_fingerprint="0" * 12,
    model="1" * 12,
    pixels="2" * 64,
    sampler=Sampler("ddim", 2, "trailing", 0.5, 1.5, (-4.0, 0.0)),
    timesteps=[999, 499],
    evaluations=3,
    precision="float32",
    seed=0,
    count=3,
    schedule="cosine",
    prediction="v",
    asked_classes=None,
    asked_precision="auto",
    classes=10,
    labels=[7, 0, 7],
)


ABOUT = {"dataset": "own", "dataset_fingerprint": "0" * 12, "class_counts": [1] * 10}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.safetensors"
    model_file.save(denoiser(), path, ABOUT | {"step": 7})
    return path


def header_of(path) -> dict:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["header"])


def change_header(path, **changes) -> None:
    header = header_of(path) | changes
    weights = {name: value.clone() for name, value in load_file(path).items()}
    save_file(weights, path, {"header": json.dumps(header)})


def change_manifest(path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_saved_model_needs_nothing_typed_again(tmp_path):
    model = denoiser("epsilon", "linear", multipliers=(1, 1), heads=4)
    model_file.save(model, tmp_path / "m", ABOUT | {"step": 7})
    loaded, about = model_file.load(tmp_path / "m")
    assert loaded.config == model.config
    assert about == ABOUT | {"step": 7}
    x, t, label = torch.randn(2, 1, 8, 8), torch.tensor([1, 2]), torch.tensor([0, 9])
    assert torch.equal(loaded.unet(x, t, label), model.unet(x, t, label))


def test_a_model_is_read_back_with_its_guide(tmp_path, path):
    model, x, label = with_guide(), torch.randn(3, 1, 8, 8), torch.tensor([0, 4, 9])
    model_file.save(model, tmp_path / "guided", ABOUT)
    loaded, _ = model_file.load(tmp_path / "guided")
    one, other = (each.predict_x0(x, 500, label, autoguidance=2.0) for each in (model, loaded))
    assert torch.equal(one, other)
    assert model_file.load(path)[0].guide is None


def test_a_model_is_opened_ready_to_draw(path):
    model, about = model_file.open_model(path, "bfloat16")
    assert about["step"] == 7 and model.precision == "bfloat16" and not model.training
    images = draw(model, MANIFEST.sampler, 0, 2, torch.tensor([1, 2]))
    assert images.shape == (2, 1, 8, 8)


def test_a_margin_is_read_back_and_none_leaves_the_header_as_it_was(tmp_path):
    for margin in (0.0, 0.1):
        model_file.save(denoiser(margin=margin), tmp_path / "m.safetensors", ABOUT)
        assert ("margin" in header_of(tmp_path / "m.safetensors")["config"]) == bool(margin)
        assert model_file.load(tmp_path / "m.safetensors")[0].config.margin == margin


def test_equal_models_are_equal_files(tmp_path):
    for name in ("a", "b"):
        model_file.save(denoiser(), tmp_path / name, {"step": 7, "name": "x"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [lambda raw: raw[:-100], lambda raw: b"", lambda raw: b"\x00" * 500, lambda raw: raw[200:]],
)
def test_a_damaged_model_file_is_named(path, damage):
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="model.safetensors.*dvc pull"):
        model_file.load(path)


def test_a_missing_model_and_one_of_another_kind_are_named(tmp_path):
    with pytest.raises(UserError, match="absent.*not found.*dvc pull"):
        model_file.load(tmp_path / "absent")
    config = classifier.ClassifierConfig(8, 1, 10, "labels", 0.0)
    classifier.save(classifier.Classifier(config), tmp_path / "other", {})
    with pytest.raises(UserError, match="expected a denoiser, found 'classifier'"):
        model_file.load(tmp_path / "other")


def test_weights_that_do_not_fit_their_configuration_are_refused(tmp_path):
    model = denoiser()
    config = asdict(replace(model.config, unet=unet_config(base_channels=16)))
    header = {"config": config, "about": {}}
    artifact.save(tmp_path / "m", "denoiser", model.state_dict(), header)
    with pytest.raises(UserError, match="do not fit"):
        model_file.load(tmp_path / "m")


@pytest.mark.parametrize("version", [2, 0, "1", None])
def test_a_model_file_of_another_format_version_is_refused(path, version):
    change_header(path, version=version)
    complaint = rf"model\.safetensors: expected format version 1, got {version!r}\. .*dvc pull"
    with pytest.raises(UserError, match=complaint):
        model_file.load(path)


def test_a_model_file_without_a_version_is_of_version_1(path):
    assert artifact.VERSION == 1 and "version" not in header_of(path)
    assert model_file.load(path)[1] == ABOUT | {"step": 7}
    change_header(path, version=1)
    assert model_file.load(path)[1] == ABOUT | {"step": 7}


def test_later_versions_are_written_with_their_number(tmp_path, path, monkeypatch):
    monkeypatch.setattr(artifact, "VERSION", 2)
    model_file.save(denoiser(), tmp_path / "new", ABOUT | {"step": 8})
    assert header_of(tmp_path / "new")["version"] == 2
    assert model_file.load(tmp_path / "new")[1] == ABOUT | {"step": 8}
    with pytest.raises(UserError, match=r"model\.safetensors: expected format version 2, got 1"):
        model_file.load(path)


def test_a_manifest_is_read_back_as_it_was(tmp_path):
    MANIFEST.save(tmp_path / "manifest.json")
    assert manifest.load(tmp_path / "manifest.json") == MANIFEST


@pytest.mark.parametrize("version", [2, 0, "1", None])
def test_a_manifest_of_another_format_version_is_refused(tmp_path, version):
    MANIFEST.save(path := tmp_path / "manifest.json")
    change_manifest(path, version=version)
    complaint = rf"manifest\.json: expected format version 1, got {version!r}\. .*dvc repro"
    with pytest.raises(UserError, match=complaint):
        manifest.load(path)


def test_names_of_classes_are_kept_in_model_and_manifest(tmp_path):
    names = [*"abcdefghi", "$5_$10"]
    model_file.save(denoiser(), path := tmp_path / "model", ABOUT | {"class_names": names})
    assert model_file.load(path)[1]["class_names"] == names
    for wrong in (names[1:], ["a"] * 10, "abcdefghij", [1] * 10):
        model_file.save(denoiser(), path, ABOUT | {"class_names": wrong})
        with pytest.raises(UserError, match="class_names"):
            model_file.load(path)
    named = replace(MANIFEST, classes=10, class_names=names)
    named.save(path := tmp_path / "manifest.json")
    assert manifest.load(path) == named
    change_manifest(path, class_names=names[1:])
    with pytest.raises(UserError, match="class_names: expected one for each of 10 classes"):
        manifest.load(path)


def test_a_manifest_without_a_version_is_of_version_1(tmp_path):
    MANIFEST.save(path := tmp_path / "manifest.json")
    keys = list(json.loads(path.read_text()))
    assert artifact.VERSION == 1 and keys == list(manifest.KEYS)
    change_manifest(path, version=1)
    assert manifest.load(path) == MANIFEST


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"method": "plms"}, r"sampler\.method: input should be 'ddpm'"),
        ({"eta": 2.0}, r"sampler\.eta: expected 0 to 1 for ddim, got 2\.0"),
        ({"steps": "two"}, r"sampler\.steps"),
        ({"count": "3"}, "count: input should be a valid integer"),
        ({"labels": [7, 0, None]}, r"labels\.2: input should be a valid integer"),
        ({"labels": [7, 0]}, "labels: expected null or one for each of 3 images"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(tmp_path, changes, complaint):
    MANIFEST.save(path := tmp_path / "manifest.json")
    change_manifest(path, **changes)
    with pytest.raises(UserError, match=rf"manifest\.json: {complaint}.*dvc repro"):
        manifest.load(path)


def test_images_of_other_settings_are_refused_by_the_key(params):
    settings = params.sample
    ours = replace(
        MANIFEST,
        sampler=settings.sampler,
        seed=settings.seed,
        count=settings.count,
        asked_classes=settings.classes,
        asked_precision=settings.precision,
    )
    manifest.check_settings(ours, settings)
    others = {"steps": 14, "seed": 1, "count": 9_999, "classes": [7], "precision": "float32"}
    for key, value in others.items():
        changed = settings.model_copy(update={key: value})
        with pytest.raises(UserError, match=rf"sample\.{key}: found .*, expected .*dvc repro"):
            manifest.check_settings(ours, changed)
    unconditional = replace(ours, classes=0, sampler=replace(ours.sampler, guidance=1.0))
    manifest.check_settings(unconditional, settings)  # which has nothing to guide by


def test_the_check_of_shapes_draws_no_weights(monkeypatch):
    """On the meta device, that would import PyTorch's compiler: seconds in every process."""

    def drawn(*_, **__):
        raise AssertionError

    monkeypatch.setattr(torch.Tensor, "normal_", drawn)
    artifact.check_fit(lambda: torch.nn.Embedding(3, 4), {"weight": torch.zeros(3, 4)})
    with pytest.raises(ValueError, match="weight: expected"):
        artifact.check_fit(lambda: torch.nn.Embedding(3, 4), {"weight": torch.zeros(3, 5)})


@pytest.mark.parametrize("wrong", [{"eta": "much"}, {"eta": 2.0}, {"evaluations": 0}])
def test_a_student_with_a_damaged_header_is_refused_by_the_key(tmp_path, wrong):
    about = ABOUT | {"evaluations": 2, "eta": 1.0} | wrong
    model_file.save(denoiser(), path := tmp_path / "student", about)
    with pytest.raises(UserError, match=next(iter(wrong))):
        model_file.load(path)
