"""The untrained model that params.yaml describes, for images of any size."""

from dataclasses import replace

import pytest
import torch

from src.common.dataset import Dataset
from src.common.errors import UserError
from src.training.setup import untrained
from tests.helpers import schedule_config


def images(side: int) -> Dataset:
    pixels = torch.zeros(4, 1, side, side, dtype=torch.uint8)
    labels = torch.tensor([0, 1, 0, 1])
    return Dataset("own", "0" * 12, pixels, labels, pixels, labels)


@pytest.mark.parametrize("side, smallest", [(28, 7), (32, 8), (8, 2)])
def test_attention_works_on_the_smallest_feature_maps_by_default(params, side, smallest):
    model = untrained(params.model, schedule_config(), images(side), seed=0)
    assert model.config.unet.attention_resolutions == (smallest,)
    none = params.model.model_copy(update={"attention_resolutions": []})
    assert untrained(none, schedule_config(), images(side), 0).config.unet == replace(
        model.config.unet, attention_resolutions=()
    )


def test_a_side_that_does_not_fit_is_refused_with_settings_that_do(params):
    with pytest.raises(UserError, match=r"30x30 .*model\.patch_size=1, unpack\.size=28, .*=32"):
        untrained(params.model, schedule_config(), images(30), seed=0)
    one = params.model.model_copy(update={"patch_size": 1})
    assert untrained(one, schedule_config(), images(30), 0).config.unet.resolutions == [30, 15]
