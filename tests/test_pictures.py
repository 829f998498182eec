import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from src.pictures import tile
from src.show.animation import MAX_FRAMES, gif, png


def test_tiles_are_laid_out_row_by_row_and_enlarged_without_smoothing():
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 1, 2, 2)
    picture = tile(images, columns=3, scale=2)
    assert picture.size == (12, 8)
    assert [picture.getpixel((4 * i + 1, 1))[0] for i in range(3)] == [0, 1, 2]
    assert [picture.getpixel((4 * i + 2, 6))[0] for i in range(3)] == [3, 4, 0]


def test_a_picture_enlarges_every_pixel_to_a_square():
    images = torch.randint(0, 256, (4, 1, 3, 3), dtype=torch.uint8)
    picture = Image.open(io.BytesIO(png(images, columns=2, scale=5)))
    pixels = np.asarray(picture).astype(int)
    assert pixels.shape == (30, 30, 3)
    upper, lower = torch.cat([*images[:2]], dim=2), torch.cat([*images[2:]], dim=2)
    rows = torch.cat([upper, lower], dim=1)[0].numpy()
    assert (pixels == np.kron(rows, np.ones((5, 5), int))[..., None]).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("states, shown", [(1, 1), (2, 2), (9, 9), (101, MAX_FRAMES)])
def test_an_animation_goes_from_the_first_state_to_the_last(states, shown, channels):
    random = torch.Generator().manual_seed(0)
    shape = (states, 4, channels, 6, 6)
    moments = torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)
    moments[0], moments[-1] = 20, 230
    with Image.open(io.BytesIO(gif(moments, columns=2, scale=3))) as animation:
        sequence = ImageSequence.Iterator(animation)
        frames = [np.asarray(frame.convert("L")).astype(int) for frame in sequence]
        assert animation.info["loop"] == 0 if states > 1 else True
    assert len(frames) == shown and frames[0].shape == (36, 36)
    assert abs(frames[-1] - 230).max() <= 5 and (states == 1 or abs(frames[0] - 20).max() <= 5)
    for frame, i in zip(frames, torch.linspace(0, states - 1, shown).round().long(), strict=True):
        assert abs(frame[::3, ::3].mean() - moments[i].double().mean()) < 6
