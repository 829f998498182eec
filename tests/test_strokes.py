import pytest
import torch

from src.measure.strokes import broken


def picture(*pixels: tuple[int, int], value: int = 255) -> torch.Tensor:
    image = torch.zeros(1, 8, 8, dtype=torch.uint8)
    for row, column in pixels:
        image[0, row, column] = value
    return image


WHOLE, DIAGONAL, APART = picture((1, 1), (1, 2)), picture((1, 1), (2, 2)), picture((1, 1), (1, 3))


def test_the_share_is_that_of_images_in_pieces():
    assert broken(torch.stack([WHOLE, DIAGONAL, APART, APART])) == pytest.approx(0.5)


def test_diagonal_neighbours_hang_together_and_an_empty_image_is_not_broken():
    assert broken(torch.stack([DIAGONAL, torch.zeros_like(WHOLE)])) == 0


def test_faint_pixels_do_not_count():
    faint_dot = APART.clone()
    faint_dot[0, 1, 3] = 60
    assert broken(torch.stack([faint_dot])) == 0
    assert broken(torch.stack([faint_dot]), threshold=50) == 1


def test_colour_counts_by_its_brightest_channel():
    assert broken(torch.cat([WHOLE, APART, WHOLE])[None]) == 0
    assert broken(torch.cat([APART, APART, APART])[None]) == 1
