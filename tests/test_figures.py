import pandas as pd
import pytest
import torch
from PIL import Image

from src import figures
from src.preview import preview, tile
from src.schedule import Schedule
from tests.conftest import denoiser, schedule_config


def texts(figure) -> str:
    found = [text.get_text() for text in figure.findobj(figures.matplotlib.text.Text)]
    figures.plt.close(figure)
    return "\n".join(found)


@pytest.mark.parametrize("channels", [1, 3])
def test_reverse_process_goes_from_the_first_state_to_the_finished_image(channels):
    states = torch.arange(12, dtype=torch.uint8).view(12, 1, 1, 1, 1).expand(12, 5, channels, 8, 8)
    figure = figures.reverse_process(states, [*range(990, 0, -90), None], 8, 4, "title", "MNIST (abc)")
    shown = [axis.images[0].get_array().flat[0] for axis in figure.axes]
    assert shown[:4] == [0, 4, 7, 11] and len(figure.axes) == 5 * 4  # 5 images only: 5 rows
    found = texts(figure)
    assert "$t=990$" in found and "$x_0$" in found and "MNIST (abc)" in found


def test_samples_stand_in_the_row_of_their_class_in_order():
    images = torch.arange(30, dtype=torch.uint8).view(30, 1, 1, 1).expand(30, 1, 8, 8)
    figure = figures.samples_by_class(images, torch.arange(30) % 3, 3, 5, "title", "note")
    shown = [axis.images[0].get_array().flat[0] for axis in figure.axes]
    assert shown == [0, 3, 6, 9, 12, 1, 4, 7, 10, 13, 2, 5, 8, 11, 14]
    assert len(figures.samples_by_class(images, None, 0, 3, "title", "note").axes) == 30


def test_curves_name_their_axes_and_the_data_they_are_of():
    curve = pd.DataFrame({"step": [1, 2], "train_loss": [0.5, 0.4], "heldout_loss": [0.6, 0.5]})
    found = texts(figures.learning_curve(curve, "v", "MNIST (abc)"))
    assert "optimiser step" in found and "mean squared error of v" in found and "MNIST (abc)" in found
    levels = pd.DataFrame({"t_from": [0, 500], "t_to": [500, 1000], "loss": [0.3, 0.1]})
    assert "Held-out loss by noise level" in texts(figures.loss_by_noise_level(levels, "v", "MNIST (abc)"))


def test_both_schedules_are_drawn_and_the_used_one_is_named():
    both = {name: Schedule(schedule_config(name)) for name in ("linear", "cosine")}
    figure = figures.schedules(both, "cosine", "note")
    drawn = figure.axes[0].lines
    assert drawn[0].get_ydata().tolist() == both["linear"].alpha_bar.tolist()
    assert drawn[1].get_ydata().tolist() == both["cosine"].alpha_bar.tolist()
    assert "cosine (used)" in texts(figure)


def test_tiles_are_laid_out_row_by_row_and_enlarged_without_smoothing():
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 1, 2, 2)
    picture = tile(images, columns=3, scale=2)
    assert picture.size == (12, 8)
    assert [picture.getpixel((4 * i + 1, 1))[0] for i in range(3)] == [0, 1, 2]
    assert [picture.getpixel((4 * i + 2, 6))[0] for i in range(3)] == [3, 4, 0]


@pytest.mark.parametrize("classes", [10, 0])
def test_previews_work_with_and_without_classes(classes):
    picture = preview(denoiser(classes=classes), seed=0, rows=2, steps=2)
    assert isinstance(picture, Image.Image) and picture.size == (10 * 8 * 7, 2 * 8 * 7)
