import pandas as pd
import pytest
import torch
from PIL import Image

from src import figures
from src.diffusion.schedule import Schedule
from src.training.preview import preview
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
    curve = curve.assign(heldout_level_0=[0.7, 0.6], heldout_level_1=[0.5, 0.4])
    figure = figures.learning_curve(curve, "v", 1000, "MNIST (abc)")
    assert [line.get_ydata().tolist() for line in figure.axes[1].lines] == [[0.7, 0.6], [0.5, 0.4]]
    found = texts(figure)
    assert "$t$ 500 to 999" in found
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


@pytest.mark.parametrize("classes, columns", [(10, 10), (0, 10), (50, 20)])
def test_previews_work_with_and_without_classes(classes, columns):
    picture = preview(denoiser(classes=classes), seed=0, rows=2, steps=2)
    assert isinstance(picture, Image.Image) and picture.size == (columns * 8 * 7, 2 * 8 * 7)
