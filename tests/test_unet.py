import math

import pytest
import torch

from src.diffusion.unet import SelfAttention, UNet, sinusoidal_embedding
from tests.helpers import denoiser, unet_config


@pytest.mark.parametrize(
    "size, channels, patch", [(8, 1, 2), (28, 1, 2), (28, 3, 1), (32, 3, 2), (56, 1, 4)]
)
def test_output_has_the_shape_of_the_input(size, channels, patch):
    network = UNet(unet_config(image_size=size, image_channels=channels, patch_size=patch))
    x = torch.randn(3, channels, size, size)
    assert network(x, torch.tensor([0, 5, 999]), torch.tensor([0, 9, 10])).shape == x.shape


def test_output_depends_on_time_class_and_image():
    network = denoiser().unet
    x, t, label = torch.randn(1, 1, 8, 8), torch.tensor([100]), torch.tensor([3])
    base = network(x, t, label)
    for other in (network(x + 0.1, t, label), network(x, t + 300, label), network(x, t, label + 1)):
        assert (other - base).abs().max() > 1e-3
    no_class = torch.tensor([10])
    assert torch.equal(network(x, t), network(x, t, no_class))


def test_every_weight_receives_a_gradient():
    network = denoiser(multipliers=(1, 2), res_blocks=2, attention_resolutions=(4, 2)).unet
    output = network(torch.randn(2, 1, 8, 8), torch.tensor([10, 500]), torch.tensor([1, 2]))
    output.square().sum().backward()
    without = [
        name
        for name, weights in network.named_parameters()
        if weights.grad is None or not weights.grad.any()
    ]
    assert without == []


@pytest.mark.parametrize(
    "resolutions, sides", [((14,), [14]), ((7,), [7]), ((7, 14), [14, 7]), ((28, 5), [])]
)
def test_attention_sits_once_at_each_of_the_named_resolutions(resolutions, sides):
    network = UNet(unet_config(image_size=28, attention_resolutions=resolutions))
    seen = []
    for module in network.modules():
        if isinstance(module, SelfAttention):
            module.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[-1]))
    network(torch.randn(1, 1, 28, 28), torch.tensor([0]))
    assert seen == sides


def test_attention_sees_positions_far_apart():
    layer = SelfAttention(8, heads=2)
    torch.nn.init.normal_(layer.out.weight)
    x = torch.randn(1, 8, 7, 7, requires_grad=True)
    layer(x)[0, :, 0, 0].sum().backward()
    assert (x.grad[0].abs().sum(dim=0) > 0).all()


def test_embedding_is_sines_and_cosines_of_time():
    embedding = sinusoidal_embedding(torch.tensor([0, 3]), 4)
    expected = [[1, 1, 0, 0], [math.cos(3), math.cos(0.03), math.sin(3), math.sin(0.03)]]
    torch.testing.assert_close(embedding, torch.tensor(expected))


def test_sizes_and_heads_that_do_not_fit_are_refused_with_the_key_to_change():
    with pytest.raises(ValueError, match="^multipliers, patch_size: images of 30x30 .*divided"):
        UNet(unet_config(image_size=30))
    with pytest.raises(ValueError, match="^heads: 3 does not divide the 16 channels"):
        UNet(unet_config(heads=3))
