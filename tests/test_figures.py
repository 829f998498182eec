import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.text import Text
from PIL import Image

from src.diffusion.schedule import Schedule, linear_betas
from src.show import figures
from src.training.preview import preview
from tests.helpers import denoiser, schedule_config


def texts(figure) -> str:
    """All that is written in a figure, which is closed."""
    lines = [text.get_text() for text in figure.findobj(Text)]
    plt.close(figure)
    return "\n".join(lines)


@pytest.mark.parametrize("channels", [1, 3])
def test_reverse_process_goes_from_the_first_state_to_the_finished_image(channels):
    states = torch.arange(12, dtype=torch.uint8).view(12, 1, 1, 1, 1).expand(12, 5, channels, 8, 8)
    figure = figures.reverse_process(states, [*range(990, 0, -90), None], 8, 4, "MNIST (abc)")
    shown = [axis.images[0].get_array().flat[0] for axis in figure.axes]
    assert shown[:4] == [0, 4, 7, 11] and len(figure.axes) == 5 * 4  # 5 images only: 5 rows
    text = texts(figure)
    assert "$t=990$" in text and "$x_0$" in text and "MNIST (abc)" in text


def test_samples_stand_in_the_row_of_their_class_in_order():
    images = torch.arange(30, dtype=torch.uint8).view(30, 1, 1, 1).expand(30, 1, 8, 8)
    names = ["cat", "$5_$10", "2"]
    figure = figures.samples_by_class(images, torch.arange(30) % 3, names, 5, "cost $5_$10")
    shown = [axis.images[0].get_array().flat[0] for axis in figure.axes]
    assert shown == [0, 3, 6, 9, 12, 1, 4, 7, 10, 13, 2, 5, 8, 11, 14]
    figure.canvas.draw()  # which reads mathematics between dollar signs
    assert {*names, "cost $5_$10"} <= set(texts(figure).split("\n"))
    assert len(figures.samples_by_class(images, None, [], 3, "note").axes) == 30


def test_curves_name_their_axes_and_the_data_they_are_of():
    curve = pd.DataFrame({"step": [1, 2], "train_loss": [0.5, 0.4], "heldout_loss": [0.6, 0.5]})
    curve = curve.assign(heldout_level_0=[0.7, 0.6], heldout_level_1=[0.5, 0.4])
    figure = figures.learning_curve(curve, "v", 1000, "MNIST (abc)")
    assert [line.get_ydata().tolist() for line in figure.axes[1].lines] == [[0.7, 0.6], [0.5, 0.4]]
    text = texts(figure)
    assert "$t$ 500 to 999" in text and "optimiser step" in text
    assert "mean squared error of v" in text and "MNIST (abc)" in text
    levels = pd.DataFrame({"t_from": [0, 500], "t_to": [500, 1000], "loss": [0.3, 0.1]})
    text = texts(figures.loss_by_noise_level(levels, "v", "MNIST (abc)"))
    assert "Held-out loss by noise level" in text and "MNIST (abc)" in text


def test_all_schedules_are_drawn_and_the_used_one_is_named():
    by_name = {name: Schedule(schedule_config(name)) for name in ("linear", "cosine", "flow")}
    figure = figures.schedules(by_name, "cosine", "note")
    alpha, sigma, log_snr = ([line.get_ydata() for line in axis.lines] for axis in figure.axes)
    alpha_bar = torch.cumprod(1 - linear_betas(1000, 1e-4, 0.02), dim=0)
    assert alpha[0].tolist() == pytest.approx(alpha_bar.sqrt().tolist(), rel=1e-12)
    assert sigma[1].tolist() == by_name["cosine"].sigma.tolist()
    assert log_snr[2].tolist() == by_name["flow"].log_snr.tolist()
    assert "cosine (used)" in texts(figure)


@pytest.mark.parametrize("classes, columns", [(10, 10), (0, 10), (50, 20)])
def test_previews_work_with_and_without_classes(classes, columns):
    picture = preview(denoiser(classes=classes), seed=0, rows=2, steps=2)
    assert isinstance(picture, Image.Image) and picture.size == (columns * 8 * 7, 2 * 8 * 7)
