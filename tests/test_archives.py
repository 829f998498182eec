import gzip
import io
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src import archives
from src.common import dataset
from src.common.errors import UserError
from tests import shapes
from tests.helpers import fetch_mnist
from tools.get_data import write_digits


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, "PNG")
    return buffer.getvalue()


def pictures(count: int, size: int = 8, colour: bool = False) -> np.ndarray:
    shape = (count, size, size, 3) if colour else (count, size, size)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def make_zip(folder: Path, members: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "own.zip", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return folder


def write_idx(path: Path, array: np.ndarray, compress: bool = True) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    raw = header + array.astype(np.uint8).tobytes()
    path.with_name(path.name + ".gz" * compress).write_bytes(
        gzip.compress(raw) if compress else raw
    )


def make_idx(folder: Path, compress: bool = True, **changes) -> Path:
    folder.mkdir(exist_ok=True)
    arrays = {
        "images": pictures(20),
        "labels": np.arange(20) % 10,
        "heldout_images": pictures(10),
        "heldout_labels": np.arange(10),
    }
    for key, array in (arrays | changes).items():
        write_idx(folder / archives.IDX_FILES[key], array, compress)
    return folder


@pytest.mark.parametrize("compress", [True, False])
def test_idx_files_keep_their_own_held_out_images(tmp_path, compress):
    data = archives.read(make_idx(tmp_path / "data", compress), heldout=0.5, seed=0)
    assert data.images.shape == (20, 1, 8, 8) and data.heldout_images.shape == (10, 1, 8, 8)
    assert np.array_equal(data.images[:, 0].numpy(), pictures(20))
    assert data.labels.tolist() == [
        i % 10 for i in range(20)
    ] and data.heldout_labels.tolist() == list(range(10))
    assert data.name == "unknown IDX files"


@pytest.mark.mnist
def test_canonical_mnist_is_known_by_its_pixels(mnist):
    data = mnist
    assert data.name == "MNIST"
    assert data.images.shape == (60_000, 1, 28, 28) and data.heldout_images.shape == (
        10_000,
        1,
        28,
        28,
    )
    assert data.class_counts() == [
        5923,
        6742,
        5958,
        6131,
        5842,
        5421,
        5918,
        6265,
        5851,
        5949,
    ]  # LeCun's page
    mean = data.images.float().mean().item() / 255
    assert mean == pytest.approx(0.1307, abs=1e-4)  # which everybody normalises by


@pytest.mark.mnist
def test_one_changed_pixel_is_no_longer_mnist(tmp_path):
    folder = fetch_mnist(tmp_path / "data")
    path = folder / "t10k-images-idx3-ubyte.gz"
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[-400] ^= 1
    path.write_bytes(gzip.compress(bytes(raw)))
    assert archives.read(folder, heldout=0.1, seed=0).name == "unknown IDX files"


def test_embedded_digits_are_known_by_their_pixels(tmp_path):
    write_digits(tmp_path / "data" / "renamed.zip")
    data = archives.read(tmp_path / "data", heldout=0.1, seed=0)
    assert data.name == "scikit-learn digits (8x8, not MNIST)"
    assert data.classes == 10 and len(data.images) == 1618 and len(data.heldout_images) == 179


@pytest.mark.parametrize("prefix", ["", "mnist/"])
@pytest.mark.parametrize("colour_mode", [None, "RGB"])
@pytest.mark.parametrize("size", [8, 28, 32])
def test_a_flat_zip_has_images_but_no_labels(tmp_path, prefix, colour_mode, size):
    images = pictures(20, size)
    members = {f"{prefix}{i:02d}.png": png(x, colour_mode) for i, x in enumerate(images)}
    folder = make_zip(tmp_path / "data", members)
    data = archives.read(folder, heldout=0.2, seed=0)
    assert data.labels is None and data.heldout_labels is None and data.classes == 0
    assert data.images.shape == (16, 1, size, size)  # RGB files of grey images are grey
    both = torch.cat([data.images, data.heldout_images])[:, 0].numpy()
    assert {x.tobytes() for x in both} == {x.tobytes() for x in images}


@pytest.mark.parametrize("prefix", ["", "mnist/train/"])
def test_class_folders_give_labels(tmp_path, prefix):
    images = pictures(40)
    members = {f"{prefix}{i % 10}/{i:02d}.png": png(x) for i, x in enumerate(images)}
    folder = make_zip(tmp_path / "data", members)
    data = archives.read(folder, heldout=0.25, seed=0)
    assert data.classes == 10 and len(data.heldout_images) == 10
    label_of = {x.tobytes(): i % 10 for i, x in enumerate(images)}
    for image, label in zip(data.images[:, 0].numpy(), data.labels.tolist(), strict=True):
        assert label_of[image.tobytes()] == label


def test_colour_images_keep_their_three_channels(tmp_path):
    images = pictures(8, 12, colour=True)
    folder = make_zip(tmp_path / "data", {f"{i}.png": png(x) for i, x in enumerate(images)})
    data = archives.read(folder, 0.25, 0)
    assert data.channels == 3 and data.image_size == 12
    both = torch.cat([data.images, data.heldout_images]).permute(0, 2, 3, 1).contiguous().numpy()
    assert {x.tobytes() for x in both} == {x.tobytes() for x in images}


def test_the_split_follows_from_its_seed_and_loses_no_image(tmp_path):
    folder = make_zip(
        tmp_path / "data", {f"{i:02d}.png": png(x) for i, x in enumerate(pictures(50))}
    )
    one, same, other = (archives.read(folder, 0.1, seed) for seed in (0, 0, 1))
    assert torch.equal(one.heldout_images, same.heldout_images)
    assert not torch.equal(one.heldout_images, other.heldout_images)
    assert one.fingerprint == other.fingerprint
    assert len({x.numpy().tobytes() for x in torch.cat([one.images, one.heldout_images])}) == 50


def test_the_split_takes_its_share_of_each_class_and_leaves_some_of_each():
    labels = torch.tensor([0] * 100 + [1] * 50 + [2])
    is_held = archives.split(151, labels, 0.1, seed=0)
    held, kept = is_held.nonzero()[:, 0], (~is_held).nonzero()[:, 0]
    assert torch.bincount(labels[held], minlength=3).tolist() == [10, 5, 0]
    assert sorted(held.tolist() + kept.tolist()) == list(range(151))


def test_too_few_images_to_hold_some_out_are_refused():
    with pytest.raises(UserError, match="too few to hold some out"):
        archives.split(4, torch.tensor([0, 1, 2, 3]), 0.5, seed=0)
    assert archives.split(4, torch.tensor([0, 0, 1, 1]), 0.01, seed=0).sum() == 2


def test_what_desktops_leave_in_archives_is_passed_over(tmp_path):
    members = {f"d/{i}.png": png(x) for i, x in enumerate(pictures(4))}
    junk = {"d/": b"", "__MACOSX/d/._0.png": b"junk", "d/.DS_Store": b"junk"}
    folder = make_zip(tmp_path / "data", members | junk)
    assert len(archives.read(folder, 0.5, 0).images) == 2


GOOD = {f"{i}.png": png(x) for i, x in enumerate(pictures(4))}


@pytest.mark.parametrize(
    "members, complaint",
    [
        ({}, "at least 4 PNG images, found 0"),
        (GOOD | {"/etc/9.png": png(pictures(1)[0])}, "'/etc/9.png' points outside"),
        (GOOD | {"a/../../9.png": png(pictures(1)[0])}, "points outside"),
        (GOOD | {"c:/9.png": png(pictures(1)[0])}, "points outside"),
        (GOOD | {"notes.txt": b"hello"}, "'notes.txt' is not a .png"),
        (GOOD | {"9.png": b"hello"}, "'9.png' is not a whole PNG"),
        (GOOD | {"9.png": GOOD["0.png"][:-30]}, "'9.png' is not a whole PNG"),
        (GOOD | {"9.png": png(pictures(1, 12)[0])}, "'9.png' is 12x12, others are 8x8"),
        (GOOD | {"9.png": png(pictures(1)[0], "RGBA")}, "'9.png' has mode RGBA"),
        (GOOD | {"9.png": png(pictures(1)[0], "1")}, "'9.png' has mode 1"),
        ({f"{i}.png": png(np.zeros((8, 12), np.uint8)) for i in range(4)}, "12x8; expected square"),
        ({f"{i}.png": png(x) for i, x in enumerate(pictures(4, 10))}, "10x10; expected square"),
        (
            {f"{i}.png": png(np.zeros((1028, 1028), np.uint8)) for i in range(4)},
            "1028x1028; at most 1024",
        ),
        (GOOD | {"3/9.png": GOOD["0.png"]}, "lies outside the class folders"),
        (
            {f"{c}/{i}.png": GOOD["0.png"] for c in (0, 1, 3) for i in range(4)},
            "found folder 3 but not 2",
        ),
        ({f"7000000000/{i}.png": GOOD["0.png"] for i in range(4)}, "count from 0 without a gap"),
    ],
)
def test_bad_zips_are_refused_by_the_name_of_the_member(tmp_path, members, complaint):
    with pytest.raises(UserError, match=complaint):
        archives.read(make_zip(tmp_path / "data", members), 0.5, 0)


def test_links_repeats_and_bombs_are_refused(tmp_path, monkeypatch):
    folder = make_zip(tmp_path / "data", GOOD)
    with zipfile.ZipFile(folder / "own.zip", "a") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="'link.png' is a link"):
        archives.read(folder, 0.5, 0)

    make_zip(folder, GOOD)
    with (
        zipfile.ZipFile(folder / "own.zip", "a") as archive,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        archive.writestr("0.png", GOOD["1.png"])
    with pytest.raises(UserError, match="'0.png' appears twice"):
        archives.read(folder, 0.5, 0)

    with zipfile.ZipFile(folder / "own.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", b"\0" * (archives.MAX_MEMBER_BYTES + 1))
    with pytest.raises(UserError, match=r"'0.png' unpacks to \d+ bytes"):
        archives.read(folder, 0.5, 0)

    make_zip(folder, GOOD)
    monkeypatch.setattr(archives, "MAX_TOTAL_BYTES", 700)  # 4 images of 8x8 are 768 bytes of pixels
    with pytest.raises(UserError, match=r"unpacks to|bytes of pixels"):
        archives.read(folder, 0.5, 0)
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    with pytest.raises(UserError, match="4 members, more than 3"):
        archives.read(folder, 0.5, 0)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no zip", None])
def test_a_damaged_zip_is_named(tmp_path, damage):
    folder = make_zip(tmp_path / "data", GOOD)
    raw = (folder / "own.zip").read_bytes()
    (folder / "own.zip").write_bytes(raw[: len(raw) // 2] if damage is None else damage)
    with pytest.raises(UserError, match="own.zip: cannot be read as a zip"):
        archives.read(folder, 0.5, 0)


@pytest.mark.parametrize(
    "names", [[], ["own.zip", "second.zip"], ["images.tar"], ["own.zip", "notes.txt"]]
)
def test_a_folder_with_anything_else_in_it_is_refused_with_what_was_found(tmp_path, names):
    (tmp_path / "data").mkdir()
    for name in names:
        (tmp_path / "data" / name).write_bytes(b"")
    listing = ", ".join(sorted(names)) or "nothing"
    with pytest.raises(UserError, match=f"four MNIST files.*found {listing}"):
        archives.read(tmp_path / "data", 0.1, 0)


def test_a_missing_folder_says_how_to_fill_it(tmp_path):
    with pytest.raises(UserError, match="make run"):
        archives.read(tmp_path / "absent", 0.1, 0)


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"labels": np.arange(19) % 10}, "20 images but 19 labels"),
        ({"labels": np.full(20, 10)}, "labels must be 0 to 9, found 10"),
        ({"images": np.zeros((20, 8, 12))}, "expected square"),
        ({"images": np.zeros((20, 12, 12))}, "test images"),
        ({"labels": np.zeros((20, 1))}, "not an IDX file of unsigned bytes with 1 axes"),
    ],
)
def test_idx_files_that_contradict_each_other_are_refused(tmp_path, changes, complaint):
    with pytest.raises(UserError, match=complaint):
        archives.read(make_idx(tmp_path / "data", **changes), 0.1, 0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:40],
        lambda raw: b"no gzip",
        lambda raw: gzip.compress(b"\0\0\x08\x03\xff\xff"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, damage):
    path = make_idx(tmp_path / "data") / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="train-images-idx3-ubyte.gz"):
        archives.read(tmp_path / "data", 0.1, 0)


def test_an_idx_header_that_promises_more_than_the_file_has_is_refused_before_memory_is_taken(
    tmp_path,
):
    path = tmp_path / "x"
    path.write_bytes(bytes([0, 0, 8, 3]) + b"\xff" * 12)
    with pytest.raises(UserError, match="its header says"):
        archives.read_idx(path, 3, tmp_path)


@pytest.mark.parametrize("labelled", [True, False])
def test_arrays_are_read_back_as_written(tmp_path, labelled):
    names = [f"{i % 10}/{i}.png" if labelled else f"{i}.png" for i in range(40)]
    members = dict(zip(names, map(png, pictures(40)), strict=True))
    written = archives.read(make_zip(tmp_path / "data", members), 0.25, 0)
    dataset.save(written, tmp_path / "arrays")
    loaded = dataset.load(tmp_path / "arrays")
    assert loaded.describe() == written.describe() and loaded.classes == written.classes
    assert torch.equal(loaded.images, written.images)
    assert torch.equal(loaded.heldout_images, written.heldout_images)
    for heldout in (False, True):
        assert loaded.class_counts(heldout) == written.class_counts(heldout)


def test_missing_and_damaged_arrays_are_named(tmp_path):
    with pytest.raises(UserError, match="arrays.*dvc repro unpack"):
        dataset.load(tmp_path / "arrays")
    (tmp_path / "arrays").write_bytes(b"12345678901234567890")
    with pytest.raises(UserError, match="arrays: damaged"):
        dataset.load(tmp_path / "arrays")


def test_pixels_survive_the_conversion_to_floats_and_back():
    pixels = torch.arange(256, dtype=torch.uint8)
    floats = dataset.to_float(pixels)
    assert (
        floats.min() == -1 and floats.max() == 1 and torch.equal(dataset.to_pixels(floats), pixels)
    )
    assert dataset.to_pixels(torch.tensor([-3.0, 5.0])).tolist() == [0, 255]


def test_the_shapes_of_the_docs_are_an_archive_in_colour(tmp_path):
    shapes.write(tmp_path / "data" / "shapes.zip", 30)
    data = archives.read(tmp_path / "data", heldout=0.2, seed=0)
    assert data.images.shape == (24, 3, 32, 32) and data.heldout_images.shape == (6, 3, 32, 32)
    assert data.classes == 3
    assert data.images.float().std() > 20
    shapes.write(tmp_path / "again.zip", 30)
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "data" / "shapes.zip").read_bytes()


@pytest.mark.parametrize("coloured", [[6, 7], [3], [0, 5]])
def test_grey_images_before_the_first_in_colour_get_three_equal_channels(tmp_path, coloured):
    grey, colour = pictures(8), pictures(8, colour=True)
    images = [colour[i] if i in coloured else grey[i] for i in range(8)]
    arrays = [torch.from_numpy(image) for image in images]
    expected = torch.stack(
        [x.permute(2, 0, 1) if x.ndim == 3 else x.expand(3, -1, -1) for x in arrays]
    )
    folder = make_zip(tmp_path / "data", {f"{i}.png": png(image) for i, image in enumerate(images)})
    for seed in range(4):  # which images are held out
        data = archives.read(folder, 0.4, seed)
        held = archives.split(8, None, 0.4, seed)
        assert torch.equal(data.images, expected[~held])
        assert torch.equal(data.heldout_images, expected[held])
        assert data.fingerprint == dataset.fingerprint(expected.shape, [expected], None)


def test_more_classes_than_any_data_set_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_CLASSES", 3)
    members = {f"{i % 4}/{i}.png": png(image) for i, image in enumerate(pictures(8))}
    folder = make_zip(tmp_path / "data", members)
    with pytest.raises(UserError, match="4 class folders, more than 3"):
        archives.read(folder, 0.5, 0)
