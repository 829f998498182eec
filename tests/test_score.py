"""`make score`: folders and arrays that people have, and what their scores mean."""

import io
import json
import math
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from src.common.errors import UserError
from src.measure import frechet
from src.measure.kernel import KernelDistance
from src.score import arrays, folder
from src.score.floors import Floors, mean
from src.score.measure import Target, Value, frechet_distance, jackknife, kernel_distance, share_of
from tests.helpers import ROOT
from tools import score

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


@pytest.mark.parametrize("classes", [["3", "7"], ["digit_3", "digit_7"], ["three", "07"]])
def test_folders_named_by_digits_are_labels(tmp_path, classes):
    names = [f"{classes[i % 2]}/{i}.png" for i in range(12)]
    labels = folder.read(pngs(tmp_path / "own", names)).labels
    assert sorted(labels.tolist()) == [3] * 6 + [7] * 6
    assert folder.read(tmp_path / "own", classes="none").labels is None


@pytest.mark.parametrize("names", [["a", "b"], ["batch_0", "batch_1"], ["2024-05-03", "x"]])
def test_folders_that_name_no_digit_are_refused_with_the_way_out(tmp_path, names):
    pngs(tmp_path / "own", [f"{names[i % 2]}/{i}.png" for i in range(12)])
    with pytest.raises(UserError, match="names no digit. --classes none"):
        folder.read(tmp_path / "own")
    assert folder.read(tmp_path / "own", classes="none").labels is None


def test_advice_is_that_of_the_score_and_not_of_unpack(tmp_path):
    names = [f"{i % 2}/{i}.png" for i in range(12)]
    pngs(tmp_path / "long", names, DIGITS[:, :20])
    with pytest.raises(UserError, match="; --fit resize takes the middle square of each"):
        folder.read(tmp_path / "long")
    notes = folder.read(pngs(tmp_path / "own", names), classes="cycle").notes
    assert "unpack" not in " ".join(notes)


def test_cycled_classes_follow_the_numbers_in_the_names_not_their_order(tmp_path):
    pngs(tmp_path / "own", [f"img_{i}.png" for i in range(1, 13)])
    scored = folder.read(tmp_path / "own", classes="cycle")
    order = sorted(range(1, 13), key=lambda i: f"img_{i}.png")
    assert scored.labels.tolist() == [(i - 1) % 10 for i in order]


def test_numbers_from_zero_cycle_from_zero_and_missing_ones_are_refused(tmp_path):
    pngs(tmp_path / "own", [f"{i:02d}.png" for i in range(12)])
    assert folder.read(tmp_path / "own", classes="cycle").labels.tolist() == [
        i % 10 for i in range(12)
    ]
    (tmp_path / "own/05.png").rename(tmp_path / "own/x.png")
    with pytest.raises(UserError, match="needs another number at the end of each name"):
        folder.read(tmp_path / "own", classes="cycle")


@pytest.mark.parametrize("head", ["", "name,label\n", "\ufeff", "name;label\n"])
def test_labels_come_from_a_csv(tmp_path, head):
    pngs(tmp_path / "own", numbered())
    table = tmp_path / "labels.csv"
    mark = ";" if ";" in head else ","
    rows = "".join(f"{name}{mark}{i % 10}\n" for i, name in enumerate(numbered()))
    table.write_text(head + rows, encoding="utf-8")
    assert folder.read(tmp_path / "own", classes=str(table)).labels.tolist() == [
        i % 10 for i in range(12)
    ]
    table.write_text(f"{numbered()[0]},1\n")
    with pytest.raises(UserError, match="labels.csv: expected a row NAME,LABEL for 00002.png"):
        folder.read(tmp_path / "own", classes=str(table))


@pytest.mark.parametrize("first", [0, 1])
def test_a_csv_counts_the_images_of_an_array_from_0_or_from_1(tmp_path, first):
    np.save(tmp_path / "a.npy", DIGITS)
    table = tmp_path / "labels.csv"
    table.write_text("".join(f"{i + first},{i % 10}\n" for i in range(60)))
    scored = folder.read(tmp_path / "a.npy", classes=str(table))
    assert scored.labels.tolist() == [i % 10 for i in range(12)]
    assert f"labels from labels.csv: row {first} is of the first image" in scored.notes


def test_a_csv_with_two_labels_for_an_image_is_refused(tmp_path):
    (tmp_path / "labels.csv").write_text("00001.png,1\n00001.png,2\n")
    with pytest.raises(UserError, match="labels.csv: 00001.png has the labels 1 and 2; keep one"):
        folder.read(pngs(tmp_path / "own", numbered()), classes=str(tmp_path / "labels.csv"))


def test_a_csv_that_was_not_asked_for_is_named(tmp_path):
    pngs(tmp_path / "own", numbered())
    table = tmp_path / "own/labels.csv"
    table.write_text("".join(f"{name},1\n" for name in numbered()))
    hint = "labels.csv; --classes takes the path of a CSV file"
    assert hint in " ".join(folder.read(tmp_path / "own").notes)
    assert hint not in " ".join(folder.read(tmp_path / "own", classes=str(table)).notes)


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
        (DIGITS.astype(">f4") / 255, "0..1"),
        (DIGITS / 255 - 1e-7, "0..1"),
        (DIGITS.reshape(2, 6, 28, 28), "0..255"),
        (DIGITS.reshape(12, 1, 784), "0..255"),
    ],
)
def test_arrays_of_all_shapes_and_ranges_give_the_same_images(tmp_path, array, scale):
    np.save(tmp_path / "a.npy", array)
    scored = folder.read(tmp_path / "a.npy")
    assert torch.equal(scored.images[:, 0], torch.from_numpy(DIGITS))
    assert f"values taken as {scale}" in scored.notes
    assert ("taken as 2 x 6 grey images" in scored.notes) == (array.shape[:2] == (2, 6))


def test_values_outside_a_named_range_are_clipped_and_counted(tmp_path):
    np.save(tmp_path / "a.npy", DIGITS / 127.5 - 0.5)  # the strokes, 1.07, are outside
    assert "values taken as -1..1; 1" in str(folder.read(tmp_path / "a.npy", scale="-1..1").notes)
    np.save(tmp_path / "b.npy", (DIGITS / 200 - 0.1307) / 0.3081)
    with pytest.raises(UserError, match="b.npy: values taken as 0..1; .* Choose another --range"):
        folder.read(tmp_path / "b.npy", scale="0..1")
    with pytest.raises(UserError, match="own: --range is for .npy and .npz files"):
        folder.read(pngs(tmp_path / "own", numbered()), scale="0..1")


def test_an_npz_may_have_labels(tmp_path):
    labels = np.arange(12) % 10
    about = {"epoch": np.array(3), "name": np.array("mine")}
    np.savez_compressed(tmp_path / "a.npz", samples=DIGITS, y=labels[:, None], **about)
    scored = folder.read(tmp_path / "a.npz")
    assert scored.labels.tolist() == labels.tolist() and "labels from the array y" in scored.notes
    np.savez(tmp_path / "c.npz", x=DIGITS, y=labels.astype(float), loss=labels + 0.5)
    assert folder.read(tmp_path / "c.npz").labels.tolist() == labels.tolist()
    np.savez(tmp_path / "d.npz", x=DIGITS, y=labels, seed=labels)
    assert (
        "no labels: y, seed may be them; keep one in the file"
        in folder.read(tmp_path / "d.npz").notes
    )
    np.savez(tmp_path / "e.npz", x=DIGITS, seed=labels + 2000)
    with pytest.raises(UserError, match="labels from 2000 to 2009; .* --classes none ignores"):
        folder.read(tmp_path / "e.npz")
    assert folder.read(tmp_path / "e.npz", classes="none").labels is None
    np.savez(tmp_path / "b.npz", one=DIGITS, two=DIGITS)
    with pytest.raises(UserError, match="b.npz: cannot be read .*arrays of images: one, two"):
        folder.read(tmp_path / "b.npz")


@pytest.mark.parametrize(
    "array, complaint",
    [
        (np.zeros((5, 2, 28, 27)), "shape"),
        (np.full((5, 28, 28), np.nan), "not finite"),
        (np.full((5, 28, 28), -300.0), "values from -300"),
        (DIGITS / 100 - 0.42, "Undo the normalisation"),
        ((DIGITS / 200 - 0.1307) / 0.3081, "Undo the normalisation"),
        (np.zeros((5, 4, 28, 28)), "shape"),
        (np.zeros((0, 28, 28)), "shape"),
        (np.zeros((2, 28, 28)), "expected at least 4 images, found 2"),
        (np.array([{}] * 5, dtype=object), "cannot be read"),
    ],
)
def test_arrays_that_are_no_images_are_refused_by_name(tmp_path, array, complaint):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=f"a.npy: .*{complaint}"):
        folder.read(tmp_path / "a.npy")


@pytest.mark.parametrize("count", [10**7, -1])
def test_a_header_that_promises_more_than_the_file_has_is_refused(tmp_path, count):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f8", "fortran_order": False, "shape": (count, 28, 28)}
    )
    (tmp_path / "a.npy").write_bytes(file.getvalue() + b"0" * 100)
    with pytest.raises(UserError, match="a.npy: cannot be read .*(bytes in a file of|of shape)"):
        arrays.read(tmp_path / "a.npy")


def test_other_sizes_are_refused_resized_or_cropped(tmp_path):
    padded = np.pad(DIGITS, ((0, 0), (2, 2), (2, 2)))
    np.save(tmp_path / "a.npy", padded)
    with pytest.raises(UserError, match="images of 32x32; MNIST has 28x28. --fit resize .*crop"):
        folder.read(tmp_path / "a.npy")
    cropped = folder.read(tmp_path / "a.npy", fit="crop").images
    assert torch.equal(cropped[:, 0], torch.from_numpy(DIGITS))
    small = folder.read(tmp_path / "a.npy", fit="resize").images
    assert small.shape == (12, 1, 28, 28)
    files = folder.read(pngs(tmp_path / "own", numbered(), padded), fit="resize").images
    assert torch.equal(small, files)


def test_colour_is_refused(tmp_path):
    coloured = DIGITS[:, None].repeat(3, axis=1).copy()
    coloured[3, 0] = 7
    np.save(tmp_path / "a.npy", coloured)
    with pytest.raises(UserError, match="1 images have colour"):
        folder.read(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "images, sentence",
    [
        (255 - DIGITS, "12 images have a bright border"),
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


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_the_kernel_distance_has_the_deviation_of_many_draws(shift):
    random = torch.Generator().manual_seed(0)
    real = torch.randn(1000, 8, generator=random)
    sets = [torch.randn(600, 8, generator=random) + shift for _ in range(100)]
    values = [kernel_distance(real, features) for features in sets]
    assert values[0].value == pytest.approx(
        KernelDistance(real).distance(sets[0]), rel=1e-9, abs=1e-12
    )
    spread = torch.tensor([value.value for value in values]).std().item()
    estimated = math.sqrt(sum(value.deviation**2 for value in values) / len(values))
    assert spread / 1.3 < estimated < 1.8 * spread


@pytest.mark.parametrize("count", [4, 12, 39, 40, 46, 91])
def test_few_images_have_a_distance_and_from_forty_on_a_deviation(count):
    random = torch.Generator().manual_seed(0)
    real, features = torch.randn(500, 4, generator=random), torch.randn(count, 4, generator=random)
    moments = frechet.moments(real.numpy())
    target = Target(moments, frechet.square_root(moments.sigma))
    for value in (frechet_distance(features, target), kernel_distance(real, features)):
        assert math.isfinite(value.value)
        assert (value.deviation is not None) == (count >= 40)


def test_a_share_of_nothing_or_all_has_a_deviation_too():
    assert 0 < share_of(0.0, 50).deviation < 0.05 and 0 < share_of(1.0, 50).deviation < 0.05
    assert share_of(0.5, 10_000).deviation == pytest.approx(0.005, rel=0.01)


@pytest.mark.parametrize("words", [["--range", "-1..1"], ["--range=-1..1"]])
def test_folders_with_one_name_have_a_score_each(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(score, "run", lambda scored: {"images": len(scored.images)})
    for parent in ("one", "two", "one"):
        (tmp_path / parent).mkdir(exist_ok=True)
        np.save(tmp_path / parent / "a.npy", DIGITS / 127.5 - 1)
        monkeypatch.setattr("sys.argv", ["score", f"{parent}/a.npy", *words])
        assert score.main() == 0
    found = {path.name: json.loads(path.read_text()) for path in (tmp_path / "scores").iterdir()}
    assert set(found) == {"a.npy.json", "a.npy-2.json"}
    one = found["a.npy.json"]
    assert one["asked"]["path"] == str(tmp_path / "one/a.npy") and one["images"] == 12
    monkeypatch.setattr("sys.argv", ["score", "one/a.npy", *words, "--classes", "cycle"])
    assert score.main() == 0 and (tmp_path / "scores/a.npy-3.json").exists()


@pytest.mark.slow
@pytest.mark.mnist
def test_real_digits_score_as_real_digits_do(tmp_path, mnist, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    chosen = torch.randperm(10_000, generator=torch.Generator().manual_seed(5))[:600]
    images, labels = mnist.heldout_images[chosen, 0], mnist.heldout_labels[chosen]
    np.savez(tmp_path / "real.npz", x=images.numpy(), y=labels.numpy())
    monkeypatch.setattr(score, "real_images", lambda fingerprint: (mnist, "MNIST of the test"))
    result = score.run(folder.read(tmp_path / "real.npz"))
    assert result["floor_images"] == 600
    for name, floor in result["floors"].items():
        value = result["scores"][name]
        spread = max(value["deviation"] or 0, 0.02 * abs(floor["value"]), 0.01)
        assert abs(value["value"] - floor["value"]) < 5 * spread, name
    assert "fd_imagenet" in capsys.readouterr().out


@pytest.mark.slow
def test_without_mnist_the_stored_floors_of_the_nearest_count_are_named(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(ROOT)
    pngs(tmp_path / "own", numbered())
    monkeypatch.setattr(score, "real_images", lambda fingerprint: (None, "no MNIST"))
    result = score.run(folder.read(tmp_path / "own"))
    assert set(result["scores"]) == {"fd_imagenet", "fd_digits", "broken"}
    assert result["floor_images"] == 500
    assert "The real digits are 500" in capsys.readouterr().out


def test_another_data_set_with_mnists_names_is_not_taken_for_mnist(tmp_path, monkeypatch):
    monkeypatch.setattr(score, "ARRAYS", tmp_path / "none")
    monkeypatch.setattr(score, "FETCHED", tmp_path / "fetched")
    monkeypatch.setattr(score.get_data, "DATA", tmp_path / "data")
    (tmp_path / "data").mkdir()
    for name, _ in score.get_data.mnist_files():
        (tmp_path / "data" / name).write_bytes(b"another data set")

    def unavailable(folder):
        raise score.get_data.Unavailable("no network")

    monkeypatch.setattr(score.get_data, "from_mirrors", unavailable)
    data, why = score.real_images("1934b35f0e63")
    assert data is None and "no network" in why


def test_floors_are_means_over_sets():
    assert mean([Value(1.0, 3.0), Value(2.0, 4.0)]) == Value(1.5, pytest.approx(12.5**0.5))
    assert mean([Value(1.0, None), Value(2.0, None)]) == Value(1.5, None)


def test_the_stored_floors_are_read_and_the_nearest_count_is_that_by_ratio():
    floors = Floors.load(ROOT / "yardstick")
    assert floors.nearest(700)[0] == 500 and floors.nearest(750)[0] == 1000
    assert floors.nearest(10**6)[0] == 10_000 and floors.nearest(3)[0] == 500
    _, values = floors.nearest(10_000)
    assert values["fd_imagenet"].value == pytest.approx(3.91, abs=0.02)
    assert values["accuracy"].value == pytest.approx(0.9954, abs=1e-4)
