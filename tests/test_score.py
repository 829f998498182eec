"""`make score`: folders and arrays that people have, and what their scores mean."""

import io
import math
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from src.common.errors import UserError
from src.measure import frechet
from src.score import arrays, folder
from src.score.floors import Floors
from src.score.measure import Target, frechet_distance, jackknife, kernel_distance
from tests.helpers import ROOT

RANDOM = np.random.default_rng(0)
DIGITS = (RANDOM.random((12, 28, 28)) > 0.8).astype(np.uint8) * 200
DIGITS[:, :4] = DIGITS[:, -4:] = 0  # a black margin


def pngs(target, names, images=DIGITS, mode="L"):
    for name, image in zip(names, images, strict=False):
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert(mode).save(path)
    return target


def numbered(count=12):
    return [f"{i:05d}.png" for i in range(1, count + 1)]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_homeworks_folder_is_read_as_grey_images_without_labels(tmp_path, mode):
    scored = folder.read(pngs(tmp_path / "generated_images", numbered(), mode=mode))
    assert scored.labels is None and scored.images.dtype == torch.uint8
    assert torch.equal(scored.images[:, 0], torch.from_numpy(DIGITS))
    assert scored.notes[0] == "12 images of 28x28, grey; no labels"


def test_a_zip_is_read_as_its_folder_is(tmp_path):
    source = pngs(tmp_path / "images", numbered())
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in sorted(source.iterdir()):
            archive.write(path, f"images/{path.name}")
    a, b = folder.read(source), folder.read(tmp_path / "images.zip")
    assert torch.equal(a.images, b.images)


@pytest.mark.parametrize("classes", [["3", "7"], ["digit_3", "digit_7"], ["three", "seven"]])
def test_folders_named_by_digits_are_labels(tmp_path, classes):
    names = [f"{classes[i % 2]}/{i}.png" for i in range(12)]
    labels = folder.read(pngs(tmp_path / "own", names)).labels
    assert sorted(labels.tolist()) == [3] * 6 + [7] * 6
    assert folder.read(tmp_path / "own", classes="none").labels is None


def test_folders_that_name_no_digit_are_refused_with_the_way_out(tmp_path):
    pngs(tmp_path / "own", [f"{'ab'[i % 2]}/{i}.png" for i in range(12)])
    with pytest.raises(UserError, match="names no digit. --classes none"):
        folder.read(tmp_path / "own")


def test_cycled_classes_follow_the_numbers_in_the_names_not_their_order(tmp_path):
    pngs(tmp_path / "own", [f"img_{i}.png" for i in range(1, 13)])
    scored = folder.read(tmp_path / "own", classes="cycle")
    order = sorted(range(1, 13), key=lambda i: f"img_{i}.png")
    assert scored.labels.tolist() == [(i - 1) % 10 for i in order]


@pytest.mark.parametrize("head", ["", "name,label\n"])
def test_labels_come_from_a_csv(tmp_path, head):
    pngs(tmp_path / "own", numbered())
    table = tmp_path / "labels.csv"
    table.write_text(head + "".join(f"{name},{i % 10}\n" for i, name in enumerate(numbered())))
    assert folder.read(tmp_path / "own", classes=str(table)).labels.tolist() == [
        i % 10 for i in range(12)
    ]
    table.write_text(f"{numbered()[0]},1\n")
    with pytest.raises(UserError, match="labels.csv: expected a row NAME,LABEL for 00002.png"):
        folder.read(tmp_path / "own", classes=str(table))


@pytest.mark.parametrize(
    "array, scale",
    [
        (DIGITS, "0..255"),
        (DIGITS[..., None], "0..255"),
        (DIGITS[:, None].repeat(3, axis=1), "0..255"),
        (DIGITS.reshape(12, 784), "0..255"),
        (DIGITS / 255, "0..1"),
        (DIGITS.astype(np.float32) / 127.5 - 1, "-1..1"),
        (DIGITS.astype(np.int64), "0..255"),
    ],
)
def test_arrays_of_all_shapes_and_ranges_give_the_same_images(tmp_path, array, scale):
    np.save(tmp_path / "a.npy", array)
    scored = folder.read(tmp_path / "a.npy")
    assert torch.equal(scored.images[:, 0], torch.from_numpy(DIGITS))
    assert f"values taken as {scale}" in scored.notes


def test_an_npz_may_have_labels(tmp_path):
    labels = np.arange(12) % 10
    np.savez_compressed(tmp_path / "a.npz", samples=DIGITS, y=labels)
    assert folder.read(tmp_path / "a.npz").labels.tolist() == labels.tolist()
    np.savez(tmp_path / "b.npz", one=DIGITS, two=DIGITS)
    with pytest.raises(UserError, match="b.npz: cannot be read .*arrays of images: one, two"):
        folder.read(tmp_path / "b.npz")


@pytest.mark.parametrize(
    "array, complaint",
    [
        (np.zeros((5, 2, 28, 28)), "shape"),
        (np.full((5, 28, 28), np.nan), "not finite"),
        (np.full((5, 28, 28), -300.0), "values from -300"),
        (np.array([{}] * 5, dtype=object), "cannot be read"),
    ],
)
def test_arrays_that_are_no_images_are_refused_by_name(tmp_path, array, complaint):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=f"a.npy: .*{complaint}"):
        folder.read(tmp_path / "a.npy")


def test_a_header_that_promises_more_than_the_file_has_takes_no_memory(tmp_path):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f8", "fortran_order": False, "shape": (10**7, 28, 28)}
    )
    (tmp_path / "a.npy").write_bytes(file.getvalue() + b"0" * 100)
    with pytest.raises(UserError, match="a.npy: cannot be read .*bytes in a file of"):
        arrays.read(tmp_path / "a.npy")


def test_other_sizes_are_refused_resized_or_cropped(tmp_path):
    padded = np.pad(DIGITS, ((0, 0), (2, 2), (2, 2)))
    np.save(tmp_path / "a.npy", padded)
    with pytest.raises(UserError, match="images of 32x32; MNIST has 28x28. --fit resize .*crop"):
        folder.read(tmp_path / "a.npy")
    cropped = folder.read(tmp_path / "a.npy", fit="crop").images
    assert torch.equal(cropped[:, 0], torch.from_numpy(DIGITS))
    assert folder.read(tmp_path / "a.npy", fit="resize").images.shape == (12, 1, 28, 28)


def test_colour_is_refused(tmp_path):
    coloured = DIGITS[:, None].repeat(3, axis=1).copy()
    coloured[3, 0] = 7
    np.save(tmp_path / "a.npy", coloured)
    with pytest.raises(UserError, match="1 images have colour"):
        folder.read(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "images, sentence",
    [
        (255 - DIGITS, "bright ground"),
        (DIGITS // 200, "no value exceeds 1"),
        (np.concatenate([DIGITS, DIGITS[:2]]), "2 images repeat another one exactly"),
        (np.concatenate([DIGITS, np.zeros_like(DIGITS[:1])]), "1 images are blank"),
    ],
)
def test_probable_mistakes_are_named(images, sentence):
    [found] = [s for s in folder.oddities(torch.from_numpy(images)[:, None]) if sentence in s]
    assert found


def test_good_digits_have_no_oddities():
    assert folder.oddities(torch.from_numpy(DIGITS)[:, None]) == []


def test_the_distance_is_that_of_all_features_and_its_deviation_that_of_many_draws():
    random = torch.Generator().manual_seed(0)
    moments = frechet.moments(torch.randn(20_000, 4, generator=random).numpy())
    target = Target(moments, frechet.square_root(moments.sigma))
    sets = [torch.randn(400, 4, generator=random) * 1.3 + 0.4 for _ in range(200)]
    values = [frechet_distance(features, target) for features in sets]
    for features, value in zip(sets[:3], values, strict=False):
        expected = frechet.distance(frechet.moments(features.numpy()), moments)
        assert value.value == pytest.approx(expected, rel=1e-5)
    spread = torch.tensor([value.value for value in values]).std().item()
    estimated = math.sqrt(sum(value.deviation**2 for value in values) / len(values))
    assert estimated == pytest.approx(spread, rel=0.25)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = torch.randn(50, generator=torch.Generator().manual_seed(1)).double()
    left_out = [(values.sum() - value).item() / 49 for value in values]
    assert jackknife(left_out) == pytest.approx(values.std().item() / math.sqrt(50))


def test_the_kernel_distance_has_the_deviation_of_many_draws():
    random = torch.Generator().manual_seed(0)
    real = torch.randn(1000, 8, generator=random)
    values = [kernel_distance(real, torch.randn(600, 8, generator=random) + 0.3) for _ in range(40)]
    spread = torch.tensor([value.value for value in values]).std().item()
    estimated = sum(value.deviation for value in values) / len(values)
    assert spread / 2.5 < estimated < 2.5 * spread


def test_the_stored_floors_are_read_and_the_nearest_count_is_that_by_ratio():
    floors = Floors.load(ROOT / "yardstick")
    assert floors.nearest(700)[0] == 500 and floors.nearest(750)[0] == 1000
    assert floors.nearest(10**6)[0] == 10_000 and floors.nearest(3)[0] == 500
    _, values = floors.nearest(10_000)
    assert values["fd_imagenet"].value == pytest.approx(3.91, abs=0.02)
    assert values["accuracy"].value == pytest.approx(0.9954, abs=1e-4)
