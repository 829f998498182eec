import copy

import pytest
import torch
from torch import nn

from src import classifier
from src.common.errors import UserError
from src.diffusion import denoiser
from tests.conftest import denoiser as make
from tests.conftest import unet_config


class Fixed(nn.Module):
    """A network that always gives the same answer."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, t, label=None):
        return self.answer


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("t", [0, 100, 600])
def test_a_perfect_network_has_no_loss_and_finds_the_clean_image(prediction, schedule, t):
    model = make(prediction, schedule)
    x0, eps, times = torch.rand(3, 1, 8, 8) * 2 - 1, torch.randn(3, 1, 8, 8), torch.full((3,), t)
    model.unet = Fixed(model.target(x0, eps, times))
    assert model.loss(x0, eps, times, None).max() == 0
    torch.testing.assert_close(model.predict_x0(model.schedule.add_noise(x0, eps, times), t), x0, rtol=1e-4, atol=1e-4)


def test_guidance_goes_from_no_class_through_the_class_and_beyond():
    model = make("x0")
    x, label = torch.randn(2, 1, 8, 8), torch.tensor([4, 7])
    with torch.no_grad():
        cond, uncond = model.predict_x0(x, 500, label), model.predict_x0(x, 500, None)
        torch.testing.assert_close(model.predict_x0(x, 500, label, guidance=0.0), uncond)
        torch.testing.assert_close(model.predict_x0(x, 500, label, guidance=3.0), uncond + 3 * (cond - uncond))


def guided(**unet) -> denoiser.Denoiser:
    model = make(**unet)
    model.guide = copy.deepcopy(model.unet)
    with torch.no_grad():
        for weights in model.guide.parameters():
            weights.mul_(0.8)
    return model


def test_autoguidance_goes_on_from_the_guide_through_the_model():
    model, x, label = guided(), torch.randn(3, 1, 8, 8), torch.tensor([0, 4, 9])
    worse = make()
    worse.unet = model.guide
    no_class = torch.full_like(label, 10)
    with torch.inference_mode():
        own, guide = model.predict_x0(x, 500, label), worse.predict_x0(x, 500, label)
        uncond = model.predict_x0(x, 500, no_class)
        assert not torch.allclose(own, guide)
        torch.testing.assert_close(model.predict_x0(x, 500, label, autoguidance=0.0), guide)
        torch.testing.assert_close(model.predict_x0(x, 500, label, autoguidance=2.5), guide + 2.5 * (own - guide))
        both = own + 0.5 * (own - uncond) + 1.5 * (own - guide)
        torch.testing.assert_close(model.predict_x0(x, 500, label, guidance=1.5, autoguidance=2.5), both)


def test_autoguidance_needs_no_class():
    model, worse, x = guided(classes=0), make(classes=0), torch.randn(3, 1, 8, 8)
    worse.unet = model.guide
    own, guide = model.predict_x0(x, 500), worse.predict_x0(x, 500)
    torch.testing.assert_close(model.predict_x0(x, 500, autoguidance=3.0), guide + 3 * (own - guide))


def test_autoguidance_of_a_model_without_a_guide_is_refused():
    with pytest.raises(UserError, match="sample.autoguidance.*guide_at"):
        make().predict_x0(torch.randn(1, 1, 8, 8), 5, torch.tensor([1]), autoguidance=2.0)


def test_a_model_is_read_back_with_its_guide(tmp_path):
    model, x, label = guided(), torch.randn(3, 1, 8, 8), torch.tensor([0, 4, 9])
    denoiser.save(model, tmp_path / "m", {})
    again, _ = denoiser.load(tmp_path / "m")
    assert torch.equal(again.predict_x0(x, 500, label, autoguidance=2.0), model.predict_x0(x, 500, label, autoguidance=2.0))
    denoiser.save(make(), tmp_path / "m", {})
    assert denoiser.load(tmp_path / "m")[0].guide is None


def test_guidance_of_a_model_without_label_dropout_is_refused():
    with pytest.raises(UserError, match="sample.guidance.*label_dropout"):
        make(label_dropout=0.0).predict_x0(torch.randn(1, 1, 8, 8), 5, torch.tensor([1]), guidance=2.0)


def test_a_saved_model_needs_nothing_typed_again(tmp_path):
    model = make("epsilon", "linear", multipliers=(1, 1), heads=4)
    denoiser.save(model, tmp_path / "model.safetensors", {"class_counts": [1] * 10, "step": 7})
    loaded, about = denoiser.load(tmp_path / "model.safetensors")
    assert loaded.config == model.config
    assert about == {"class_counts": [1] * 10, "step": 7}
    x, t, label = torch.randn(2, 1, 8, 8), torch.tensor([1, 2]), torch.tensor([0, 9])
    assert torch.equal(loaded.unet(x, t, label), model.unet(x, t, label))


def test_equal_models_are_equal_files(tmp_path):
    for name in ("a", "b"):
        denoiser.save(make(), tmp_path / name, {"step": 7, "name": "x"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("damage", [lambda raw: raw[:-100], lambda raw: b"", lambda raw: b"\x00" * 500, lambda raw: raw[200:]])
def test_a_damaged_model_file_is_named(tmp_path, damage):
    path = tmp_path / "model.safetensors"
    denoiser.save(make(), path, {})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="model.safetensors.*dvc pull"):
        denoiser.load(path)


def test_a_missing_model_and_one_of_another_kind_are_named(tmp_path):
    with pytest.raises(UserError, match="absent.*not found.*dvc pull"):
        denoiser.load(tmp_path / "absent")
    config = classifier.ClassifierConfig(8, 1, 10, "labels", 0.0)
    classifier.save(classifier.Classifier(config), tmp_path / "other", {})
    with pytest.raises(UserError, match="expected a denoiser, found 'classifier'"):
        denoiser.load(tmp_path / "other")


def test_weights_that_do_not_fit_their_configuration_are_refused(tmp_path):
    from dataclasses import asdict, replace

    from src.common import artifact

    model = make()
    config = asdict(replace(model.config, unet=unet_config(base_channels=16)))
    artifact.save(tmp_path / "m", "denoiser", model.state_dict(), {"config": config, "about": {}})
    with pytest.raises(UserError, match="do not fit"):
        denoiser.load(tmp_path / "m")
