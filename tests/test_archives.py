import errno
import functools
import gzip
import io
import json
import os
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src import archives
from src.archives import idx, layout, members
from src.archives.decode import decode
from src.common import dataset
from src.common.errors import UserError
from src.common.torchvision_remedy import torchvision
from tests.helpers import IDX_FILES, fetch_mnist, read_archive, unpack_settings
from tools import examples, get_data
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
        write_idx(folder / IDX_FILES[key], array, compress)
    return folder


@pytest.mark.parametrize("compress", [True, False])
def test_idx_files_keep_their_own_held_out_images(tmp_path, compress):
    data = read_archive(make_idx(tmp_path / "data", compress), heldout=0.5)
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
    assert read_archive(folder, heldout=0.1).name == "unknown IDX files"


def test_embedded_digits_are_known_by_their_pixels(tmp_path):
    write_digits(tmp_path / "data" / "renamed.zip")
    data = read_archive(tmp_path / "data", heldout=0.1)
    assert data.name == "scikit-learn digits (8x8, not MNIST)"
    assert data.classes == 10 and len(data.images) == 1618 and len(data.heldout_images) == 179


@pytest.mark.parametrize("prefix", ["", "mnist/"])
@pytest.mark.parametrize("colour_mode", [None, "RGB"])
@pytest.mark.parametrize("size", [8, 28, 30])
def test_a_flat_zip_has_images_but_no_labels(tmp_path, prefix, colour_mode, size):
    images = pictures(20, size)
    members = {f"{prefix}{i:02d}.png": png(x, colour_mode) for i, x in enumerate(images)}
    folder = make_zip(tmp_path / "data", members)
    data = read_archive(folder, heldout=0.2)
    assert data.labels is None and data.heldout_labels is None and data.classes == 0
    assert data.images.shape == (16, 1, size, size)  # RGB files of grey images are grey
    both = torch.cat([data.images, data.heldout_images])[:, 0].numpy()
    assert {x.tobytes() for x in both} == {x.tobytes() for x in images}


@pytest.mark.parametrize("prefix", ["", "mnist/train/"])
def test_class_folders_give_labels(tmp_path, prefix):
    images = pictures(40)
    members = {f"{prefix}{i % 10}/{i:02d}.png": png(x) for i, x in enumerate(images)}
    folder = make_zip(tmp_path / "data", members)
    data = read_archive(folder, heldout=0.25)
    assert data.classes == 10 and len(data.heldout_images) == 10
    label_of = {x.tobytes(): i % 10 for i, x in enumerate(images)}
    for image, label in zip(data.images[:, 0].numpy(), data.labels.tolist(), strict=True):
        assert label_of[image.tobytes()] == label


def test_colour_images_keep_their_three_channels(tmp_path):
    images = pictures(8, 12, colour=True)
    folder = make_zip(tmp_path / "data", {f"{i}.png": png(x) for i, x in enumerate(images)})
    data = read_archive(folder, heldout=0.25)
    assert data.channels == 3 and data.image_size == 12
    both = torch.cat([data.images, data.heldout_images]).permute(0, 2, 3, 1).contiguous().numpy()
    assert {x.tobytes() for x in both} == {x.tobytes() for x in images}


def test_the_split_follows_from_its_seed_and_loses_no_image(tmp_path):
    folder = make_zip(
        tmp_path / "data", {f"{i:02d}.png": png(x) for i, x in enumerate(pictures(50))}
    )
    one, same, other = (read_archive(folder, heldout=0.1, seed=seed) for seed in (0, 0, 1))
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


def test_an_archive_with_one_image_of_each_class_is_named(tmp_path):
    make_zip(tmp_path / "data", {f"{i}/x.png": png(x) for i, x in enumerate(pictures(4))})
    with pytest.raises(UserError, match=r"\.zip: 4 images are too few"):
        read_archive(tmp_path / "data")


GOOD = {f"{i}.png": png(x) for i, x in enumerate(pictures(4))}


@pytest.mark.parametrize(
    "members, complaint",
    [
        ({}, "own.zip: expected .*, found nothing"),
        ({"0.png": GOOD["0.png"]}, "at least 4 images, found 1"),
        (GOOD | {"/etc/9.png": png(pictures(1)[0])}, "'/etc/9.png' points outside"),
        (GOOD | {"a/../../9.png": png(pictures(1)[0])}, "points outside"),
        (GOOD | {"c:/9.png": png(pictures(1)[0])}, "points outside"),
        (GOOD | {"notes.exe": b"hello"}, "'notes.exe' is neither an image nor an archive"),
        (GOOD | {"9.png": b"hello"}, "'9.png' is not a PNG or JPEG"),
        (GOOD | {"9.png": GOOD["0.png"][:-30]}, "'9.png' is not a whole PNG or JPEG"),
        (GOOD | {"9.png": png(pictures(1, 12)[0])}, "'9.png' is 12x12, others are 8x8"),
        ({f"{i}.png": png(np.zeros((8, 12), np.uint8)) for i in range(4)}, "12x8; expected square"),
        (
            {f"{i}.png": png(np.zeros((1028, 1028), np.uint8)) for i in range(4)},
            "1028x1028; at most 1024",
        ),
        (GOOD | {"3/9.png": GOOD["0.png"]}, "lies outside the class folders"),
        (
            {f"{c}/{i}.png": GOOD["0.png"] for c in ("train", "test", "more") for i in range(4)},
            "'more/0.png' lies outside train/, test/ and val/",
        ),
        (
            {
                f"{c}/{i}.png": GOOD["0.png"]
                for c in ("train/a", "train/b", "test/c")
                for i in (0, 1)
            },
            "class 'c' has held-out images, but none in train/",
        ),
        (GOOD | {"more.zip": b""}, "found more.zip, 0.png"),
    ],
)
def test_bad_zips_are_refused_by_the_name_of_the_member(tmp_path, members, complaint):
    with pytest.raises(UserError, match=complaint):
        read_archive(make_zip(tmp_path / "data", members), heldout=0.5)


def test_links_repeats_and_bombs_are_refused(tmp_path):
    folder = make_zip(tmp_path / "data", GOOD)
    with zipfile.ZipFile(folder / "own.zip", "a") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="'link.png' is a link"):
        read_archive(folder, heldout=0.5)

    make_zip(folder, GOOD)
    with (
        zipfile.ZipFile(folder / "own.zip", "a") as archive,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        archive.writestr("0.png", GOOD["1.png"])
    with pytest.raises(UserError, match="'0.png' appears twice"):
        read_archive(folder, heldout=0.5)

    make_zip(folder, GOOD)
    with zipfile.ZipFile(folder / "own.zip", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("9.png", b"\0" * (members.MAX_IMAGE_BYTES + 1))
    with pytest.raises(UserError, match=r"'9.png' has 16777217 bytes; at most 16777216"):
        read_archive(folder, heldout=0.5)

    make_zip(folder, GOOD)
    # 4 images of 8x8 are 768 bytes of pixels.
    with pytest.raises(UserError, match=r"4 images of 8x8 \(unpack.size .* more than .* GiB"):
        read_archive(folder, heldout=0.5, max_gib=700 / 2**30)
    with pytest.raises(UserError, match="own.zip: more than 3 files.*raise unpack.max_files"):
        read_archive(folder, heldout=0.5, max_files=3)
    with pytest.raises(UserError, match="own.zip: unpacks to more than .* unpack.max_gib"):
        read_archive(folder, heldout=0.5, max_gib=100 / 2**30)
    (tmp_path / "loose").mkdir()
    for name, image in GOOD.items():
        (tmp_path / "loose" / name).write_bytes(image)
    with pytest.raises(UserError, match="loose/: more than 3 files"):
        read_archive(tmp_path / "loose", heldout=0.5, max_files=3)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no zip", None])
def test_a_damaged_zip_is_named(tmp_path, damage):
    folder = make_zip(tmp_path / "data", GOOD)
    raw = (folder / "own.zip").read_bytes()
    (folder / "own.zip").write_bytes(raw[: len(raw) // 2] if damage is None else damage)
    with pytest.raises(UserError, match="own.zip: cannot be read as a zip"):
        read_archive(folder, heldout=0.5)


@pytest.mark.parametrize("names", [[], ["own.zip", "second.zip"], ["notes.txt"]])
def test_a_folder_without_one_data_set_is_refused_with_what_was_found(tmp_path, names):
    (tmp_path / "data").mkdir()
    for name in names:
        (tmp_path / "data" / name).write_bytes(b"")
    listing = ", ".join(sorted(names)) or "nothing"
    with pytest.raises(UserError, match=f"expected the four files of MNIST, .*found {listing}"):
        read_archive(tmp_path / "data")


def test_a_missing_folder_says_how_to_fill_it(tmp_path):
    with pytest.raises(UserError, match="make run"):
        read_archive(tmp_path / "absent", heldout=0.1)


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"labels": np.arange(19) % 10}, "20 images but 19 labels"),
        ({"labels": np.full(20, 10)}, "test images have classes that the training images lack"),
        ({"images": np.zeros((20, 8, 12))}, "expected square"),
        ({"images": np.zeros((20, 12, 12))}, "test images"),
        ({"labels": np.zeros((20, 1))}, "not an IDX file of unsigned bytes with 1 axes"),
    ],
)
def test_idx_files_that_contradict_each_other_are_refused(tmp_path, changes, complaint):
    with pytest.raises(UserError, match=complaint):
        read_archive(make_idx(tmp_path / "data", **changes), heldout=0.1)


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
        read_archive(tmp_path / "data", heldout=0.1)


def test_an_idx_header_that_promises_more_than_the_file_has_is_refused_before_memory_is_taken(
    tmp_path,
):
    path = tmp_path / "x"
    path.write_bytes(bytes([0, 0, 8, 3]) + b"\xff" * 12)
    with pytest.raises(UserError, match=r"its header says .*, more than 8 GiB"):
        idx.read(members.of_file(path, "x"), 3, tmp_path, unpack_settings())


@pytest.mark.parametrize("labelled", [True, False])
def test_arrays_are_read_back_as_written(tmp_path, labelled):
    names = [f"{i % 10}/{i}.png" if labelled else f"{i}.png" for i in range(40)]
    members = dict(zip(names, map(png, pictures(40)), strict=True))
    written = read_archive(make_zip(tmp_path / "data", members), heldout=0.25)
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


class FewPhotographs:
    """Stands for torchvision's CIFAR10, which downloads."""

    classes = ("airplane", "automobile")

    def __init__(self, root, train, download):
        self.images = pictures(8 if train else 4, colour=True)

    def __iter__(self):
        return ((Image.fromarray(image), i % 2) for i, image in enumerate(self.images))


def test_the_archive_of_photographs_has_their_split_and_names(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", FewPhotographs)
    (tmp_path / "data").mkdir()
    for path in (tmp_path / "data/photographs.zip", tmp_path / "again.zip"):
        assert get_data.write_zip(path, examples.photographs(tmp_path)) == 12
    data = read_archive(tmp_path / "data")
    assert data.images.shape == (8, 3, 8, 8) and data.heldout_images.shape == (4, 3, 8, 8)
    assert data.names == ["airplane", "automobile"]
    first = data.images[data.labels == 1][0].permute(1, 2, 0).numpy()
    assert np.array_equal(first, pictures(8, colour=True)[1])
    assert path.read_bytes() == (tmp_path / "data/photographs.zip").read_bytes()


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
        data = read_archive(folder, heldout=0.4, seed=seed)
        held = archives.split(8, None, 0.4, seed)
        assert torch.equal(data.images, expected[~held])
        assert torch.equal(data.heldout_images, expected[held])
        assert data.fingerprint == dataset.fingerprint(expected.shape, [expected], None)


def test_more_classes_than_any_data_set_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "MAX_CLASSES", 3)
    members = {f"{i % 4}/{i}.png": png(image) for i, image in enumerate(pictures(8))}
    folder = make_zip(tmp_path / "data", members)
    with pytest.raises(UserError, match="4 class folders, more than 3"):
        read_archive(folder, heldout=0.5)


# --- archives that people have --------------------------------------------------------------------


def members_of(*names: str, count: int = 4) -> dict[str, bytes]:
    """`count` images in each of these folders, all different."""
    images = iter(pictures(count * len(names)))
    return {f"{name}/{i}.png": png(next(images)) for name in names for i in range(count)}


def described(folder: Path, **changes) -> str:
    """The lines that the stage unpack prints."""
    return "\n".join(archives.read(folder, unpack_settings(**changes))[1])


@pytest.mark.parametrize("top", ["", "t/"])
@pytest.mark.parametrize(
    "train, test", [("training", "testing"), ("Train", "Test"), ("train", "val")]
)
def test_the_archives_own_split_is_kept(tmp_path, top, train, test):
    names = [f"{top}{part}/{c}" for part in (train, test) for c in (0, 1)]
    content = members_of(*names)
    folder = make_zip(tmp_path / "data", content)
    data = read_archive(folder, heldout=0.9)
    held = {x.numpy().tobytes() for x in data.heldout_images[:, 0]}
    expected = [np.array(Image.open(io.BytesIO(content[n]))) for n in content if test in n]
    assert held == {x.tobytes() for x in expected} and len(data.images) == 8
    assert data.labels.tolist() == data.heldout_labels.tolist() == [0] * 4 + [1] * 4
    part = "val" if test == "val" else "test"
    assert f"own split: {part}/ is held out" in described(folder)
    assert len(read_archive(folder, split="random", heldout=0.25).heldout_images) == 4


def test_with_test_and_val_the_latter_is_left_out(tmp_path):
    folder = make_zip(tmp_path / "data", members_of("train", "val", "test"))
    data = read_archive(folder)
    assert len(data.images) == len(data.heldout_images) == 4 and data.labels is None
    assert "test/ is held out, and the 4 images in val/ are left out" in described(folder)


@pytest.mark.parametrize(
    "folders, names",
    [
        (("dog", "cat"), ["cat", "dog"]),
        (("zero", "one", "two"), ["one", "two", "zero"]),
        (("digit_3", "digit_1"), ["digit_1", "digit_3"]),
        (("10", "1", "2"), ["1", "2", "10"]),
        (("7", "3"), ["3", "7"]),
        (("0000000002", "0000000000", "0000000001"), ["0000000000", "0000000001", "0000000002"]),
        (("train", "plane"), ["plane", "train"]),
        (("cost $5_$10", "Äpfel"), ["cost $5_$10", "Äpfel"]),
    ],
)
def test_class_folders_have_names(tmp_path, folders, names):
    content = members_of(*folders)
    folder = make_zip(tmp_path / "data", content)
    data = read_archive(folder, heldout=0.25)
    assert data.names == names and data.classes == len(names) and data.named
    images = {np.array(Image.open(io.BytesIO(content[n]))).tobytes(): n for n in content}
    for image, label in zip(data.images[:, 0].numpy(), data.labels.tolist(), strict=True):
        assert images[image.tobytes()].split("/")[0] == names[label]
    dataset.save(data, tmp_path / "arrays")
    assert dataset.load(tmp_path / "arrays").names == names
    assert read_archive(folder, labels="none").labels is None


def stylegan(count: int = 2004) -> dict[str, bytes]:
    image = png(pictures(1)[0])
    return {f"{i // 1000:05d}/img{i:08d}.png": image for i in range(995, count)}


def test_buckets_of_stylegan_are_no_classes_unless_asked_for(tmp_path):
    folder = make_zip(tmp_path / "data", stylegan())
    assert read_archive(folder).labels is None
    assert "hold 1,000 images each" in described(folder)
    assert read_archive(folder, labels="folders").names == ["00000", "00001", "00002"]


def test_labels_come_from_dataset_json(tmp_path):
    content = stylegan(1005)
    labels = [[name, i % 3 * 2] for i, name in enumerate(content)]
    listed = content | {"dataset.json": json.dumps({"labels": labels}).encode()}
    data = read_archive(make_zip(tmp_path / "data", listed))
    assert data.names == ["0", "2", "4"] and data.named
    arranged = layout.arrange(list(content), listed=dict(labels))
    assert arranged.labels == [i % 3 for i in range(len(content))]
    nothing = content | {"dataset.json": b'{"labels": null}'}
    assert read_archive(make_zip(tmp_path / "data", nothing)).labels is None
    for damaged, complaint in (
        (json.dumps({"labels": labels[1:]}), "has no label in dataset.json"),
        ('{"labels": 5}', "dataset.json cannot be read"),
        ('{"labels": [["a", "b"]]}', "dataset.json cannot be read"),
        ("[" * 100_000, "dataset.json cannot be read"),
    ):
        folder = make_zip(tmp_path / "data", content | {"dataset.json": damaged.encode()})
        with pytest.raises(UserError, match=complaint):
            read_archive(folder)


def test_what_is_no_image_is_skipped_and_counted(tmp_path):
    junk = dict.fromkeys(
        (
            "mnist/.ipynb_checkpoints/x.png",
            "mnist/Thumbs.db",
            "desktop.ini",
            "README",
            "labels.csv",
            "meta.json",
            "notes.TXT",
            "__MACOSX/mnist/._0.png",
        ),
        b"junk",
    )
    folder = make_zip(tmp_path / "data", {"mnist/": b""} | members_of("mnist") | junk)
    (folder / ".DS_Store").write_bytes(b"junk")
    (folder / "README.md").write_bytes(b"junk")
    assert len(read_archive(folder).images) == 2
    assert "skipped 10 other files" in described(folder)


def tar(path: Path, content: dict[str, bytes], mode: str = "w:gz") -> None:
    with tarfile.open(path, mode) as archive:
        for name, raw in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))


def nested(path: Path, content: dict[str, bytes]) -> None:
    inner = make_zip(path.parent.parent / "inner", content) / "own.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inner/own.zip", inner.read_bytes())
        archive.writestr("README.txt", "hello")


def loose(path: Path, content: dict[str, bytes]) -> None:
    for name, raw in content.items():
        file = path.parent / "mnist_rgb" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(raw)


def of_windows(path: Path, content: dict[str, bytes]) -> None:
    make_zip(path.parent, {name.replace("/", "\\"): raw for name, raw in content.items()})


@pytest.mark.parametrize(
    "name, write",
    [
        ("own.tar", functools.partial(tar, mode="w")),
        ("own.tar.gz", tar),
        ("own.TGZ", tar),
        ("own.zip", nested),
        ("own.zip", of_windows),
        ("folder", loose),
    ],
)
def test_folders_tars_and_other_zips_are_the_same_data_set(tmp_path, name, write):
    content = members_of("cat", "dog")
    expected = read_archive(make_zip(tmp_path / "zip", content))
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / name, content)
    data = read_archive(tmp_path / "data")
    assert data.fingerprint == expected.fingerprint and data.names == ["cat", "dog"]
    assert data.name == ("mnist_rgb" if write is loose else "own")
    assert torch.equal(data.heldout_images, expected.heldout_images)


@pytest.mark.parametrize(
    "name, type_", [("link.png", tarfile.SYMTYPE), ("link.png", tarfile.LNKTYPE), ("f", b"6")]
)
def test_a_tar_with_links_or_devices_is_refused(tmp_path, name, type_):
    (tmp_path / "data").mkdir()
    with tarfile.open(tmp_path / "data" / "own.tar", "w") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = type_, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(UserError, match="own.tar: member .* is a link, a device or sparse"):
        read_archive(tmp_path / "data")


@pytest.mark.parametrize("name", ["/etc/9.png", "../9.png"])
def test_a_tar_that_leaves_its_folder_is_refused(tmp_path, name):
    (tmp_path / "data").mkdir()
    tar(tmp_path / "data" / "own.tar.gz", GOOD | {name: GOOD["0.png"]})
    with pytest.raises(UserError, match="points outside"):
        read_archive(tmp_path / "data")


@pytest.mark.parametrize("compress", [False, True])
def test_a_tar_that_ends_early_or_has_a_damaged_header_is_refused(tmp_path, compress):
    tar(tmp_path / "whole.tar", GOOD, mode="w")
    whole = (tmp_path / "whole.tar").read_bytes()
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / ("own.tar.gz" if compress else "own.tar")
    wrong_sum = bytearray(whole)
    wrong_sum[1024 + 148] ^= 1  # in the second header
    for damaged in (whole[:1024], whole[:1500], whole[:2048], wrong_sum):
        path.write_bytes(gzip.compress(damaged) if compress else damaged)
        with pytest.raises(UserError, match=r"own\.tar.*damaged, or ends early|unexpected end"):
            read_archive(tmp_path / "data")


def test_a_gzipped_tar_beyond_the_limit_is_not_cut(tmp_path):
    (tmp_path / "data").mkdir()
    tar(tmp_path / "data" / "own.tar.gz", members_of("cat", "dog"))
    with pytest.raises(UserError, match="own.tar.gz: unpacks to more than .* GiB"):
        read_archive(tmp_path / "data", max_gib=4096 / 2**30)


def test_names_that_are_not_utf8_are_refused(tmp_path):
    (tmp_path / "data").mkdir()
    with tarfile.open(
        tmp_path / "data" / "own.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT
    ) as archive:
        info = tarfile.TarInfo("Café/1.png")
        info.size = len(GOOD["0.png"])
        archive.addfile(info, io.BytesIO(GOOD["0.png"]))
    with pytest.raises(UserError, match="this name is not UTF-8"):
        read_archive(tmp_path / "data")


def test_utf8_names_in_a_zip_without_the_mark_are_read(tmp_path):
    content = members_of("Xpfel", "dog")
    raw = (make_zip(tmp_path / "data", content) / "own.zip").read_bytes()
    (tmp_path / "data/own.zip").write_bytes(raw.replace(b"Xpfel", "Äpfl".encode()))
    assert read_archive(tmp_path / "data").names == ["dog", "Äpfl"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "data/cat").mkdir(parents=True)

    def denied(path, scandir=os.scandir):  # root may read all folders
        if Path(path).name == "cat":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(UserError, match="data/cat/: cannot be read"):
        read_archive(tmp_path / "data")


def test_a_folder_named_as_a_part_above_the_split_is_passed_over():
    names = [f"test/{part}/{c}/1.png" for part in ("train", "test") for c in ("cat", "dog")]
    arranged = layout.arrange(names)
    assert arranged.class_names == ["cat", "dog"] and arranged.held == [True] * 2 + [False] * 2


def test_a_stray_image_does_not_stop_a_random_split():
    names = ["x.png", "train/a/1.png", "test/a/1.png"]
    with pytest.raises(UserError, match="set unpack.split to random"):
        layout.arrange(names)
    assert layout.arrange(names, labels="none", split="random").held is None


def test_a_tar_whose_header_would_fill_the_memory_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    with tarfile.open(tmp_path / "data" / "own.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("x.png")
        info.pax_headers = {"comment": "x" * (2 * members.MAX_TAR_HEADER)}
        archive.addfile(info)
    with pytest.raises(UserError, match=r"own\.tar: cannot be read as a tar \(a header of"):
        read_archive(tmp_path / "data")


def test_a_gzipped_tar_of_nothing_but_zeros_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    tar(tmp_path / "data" / "own.tgz", {"0.png": bytes(2**24)})
    with pytest.raises(UserError, match="unpacks to more than 200 times"):
        read_archive(tmp_path / "data")


@pytest.mark.parametrize("where", ["MNIST/raw/", ""])
@pytest.mark.parametrize("in_a_zip", [True, False])
def test_idx_files_may_lie_deeper_or_in_a_zip_and_have_other_names(tmp_path, where, in_a_zip):
    expected = read_archive(make_idx(tmp_path / "plain"))
    files = {path.name: path.read_bytes() for path in (tmp_path / "plain").iterdir()}
    files["train-images.idx3-ubyte"] = gzip.decompress(files["train-images-idx3-ubyte.gz"])
    files = {f"{where}{name}": raw for name, raw in files.items()}
    if in_a_zip:
        make_zip(tmp_path / "data", files)
    else:
        for name, raw in files.items():
            (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / name).write_bytes(raw)
    data = read_archive(tmp_path / "data")
    assert data.fingerprint == expected.fingerprint
    assert torch.equal(data.images, expected.images)


def test_emnist_is_turned_upright_and_may_have_any_classes(tmp_path):
    folder = make_idx(
        tmp_path / "data", labels=np.arange(20) % 10 + 1, heldout_labels=np.arange(10) + 1
    )
    for path in list(folder.iterdir()):
        path.rename(folder / f"emnist-letters-{path.name}".replace("t10k", "test"))
    data = read_archive(folder)
    assert np.array_equal(data.images[:, 0].numpy(), pictures(20).transpose(0, 2, 1))
    assert data.names == [str(n) for n in range(1, 11)] and data.labels[:3].tolist() == [0, 1, 2]
    assert data.name == "emnist-letters" and "EMNIST is upright then" in described(folder)
    lying = read_archive(folder, transpose="never")
    assert np.array_equal(lying.images[:, 0].numpy(), pictures(20))
    (folder / "emnist-digits-train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(UserError, match="IDX files of several data sets"):
        read_archive(folder)


def test_idx_files_of_any_name_are_transposed_if_asked(tmp_path):
    data = read_archive(make_idx(tmp_path / "data"), transpose="always")
    assert np.array_equal(data.images[:, 0].numpy(), pictures(20).transpose(0, 2, 1))


@pytest.mark.parametrize("flat_too", [False, True])
def test_idx_files_in_folders_of_their_names_are_one_data_set(tmp_path, flat_too):
    folder = make_idx(tmp_path / "data", compress=False)
    for path in list(folder.iterdir()):
        raw = path.read_bytes()
        path.unlink()
        path.mkdir()
        (path / path.name).write_bytes(raw)
        if flat_too:
            path.with_name(path.name.replace("-idx", ".idx")).write_bytes(raw)
    assert read_archive(folder).images.shape == (20, 1, 8, 8)


def test_half_of_the_idx_files_are_named(tmp_path):
    folder = make_idx(tmp_path / "data")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match="none of the test labels"):
        read_archive(folder)


def test_images_of_all_kinds_are_converted_and_counted(tmp_path):
    grey, colour = (Image.fromarray(pictures(1, colour=c)[0]) for c in (False, True))
    half = Image.merge("LA", (grey, Image.new("L", (8, 8), 128)))
    deep = Image.fromarray(pictures(1)[0].astype(np.uint16) * 257)

    def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    content = {
        "0.png": encoded(colour),
        "1.png": encoded(colour.quantize(8)),
        "2.png": encoded(grey.convert("1")),
        "3.png": encoded(grey.convert("RGBA")),
        "4.png": encoded(half),
        "5.png": encoded(deep),
        "6.jpg": encoded(colour, "JPEG"),
        "7.png": encoded(colour, "JPEG"),
        "8.PNG": encoded(grey, save_all=True, append_images=[grey.rotate(90)]),
    }
    folder = make_zip(tmp_path / "data", content)
    data, notes = archives.read(folder, unpack_settings(background="white"))
    both = torch.empty(9, 3, 8, 8, dtype=torch.uint8)
    held = archives.split(9, None, 0.5, 0)
    both[~held], both[held] = data.images, data.heldout_images
    plain = torch.from_numpy(np.array(grey)).expand(3, 8, 8)
    assert (
        torch.equal(both[3], plain) and torch.equal(both[5], plain) and torch.equal(both[8], plain)
    )
    assert torch.equal(
        both[1].permute(1, 2, 0), torch.from_numpy(np.array(colour.quantize(8).convert("RGB")))
    )
    assert both[2].unique().tolist() == [0, 255]
    assert (both[4].int() - (plain.int() + 255) / 2).abs().max() <= 1
    assert torch.equal(both[6], both[7])
    (line,) = [note for note in notes if note.startswith("converted: ")]
    for count in (
        "2 JPEG",
        "1 palette",
        "1 1 bit",
        "1 opaque, alpha dropped",
        "1 transparent, put on white",
        "1 16 bits, scaled to 8",
        "1 animated, first image taken",
    ):
        assert count in line


def test_images_are_cropped_and_resized_if_asked(tmp_path):
    content = {f"{i}.png": png(np.full((20 + i, 30, 3), 10 * i, np.uint8)) for i in range(6)}
    folder = make_zip(tmp_path / "data", content)
    with pytest.raises(UserError, match="30x20; expected square images; unpack.size: 20"):
        read_archive(folder)
    data = read_archive(folder, size=16)
    assert data.image_size == 16 and "6 resized" in described(folder, size=16)
    values = torch.cat([data.images, data.heldout_images]).flatten(1).unique(dim=1)
    assert sorted(values.flatten().tolist()) == [0, 10, 20, 30, 40, 50]
    assert read_archive(make_idx(tmp_path / "idx"), size=16).images.shape == (20, 1, 16, 16)
    with pytest.raises(UserError, match="20 images of 16x16 take more than .* unpack.max_gib"):
        read_archive(tmp_path / "idx", size=16, max_gib=20 * 16 * 15 / 2**30)


def test_idx_images_of_too_many_pixels_are_refused(tmp_path):
    large = np.zeros((2, 1030, 1030))
    folder = make_idx(tmp_path / "data", images=large, labels=np.arange(2), compress=False)
    with pytest.raises(UserError, match="is 1030x1030; at most 1024 pixels a side"):
        read_archive(folder)


def test_the_middle_square_is_taken(tmp_path):
    columns = np.tile(np.arange(30, dtype=np.uint8), (10, 1))
    make_zip(tmp_path / "data", {f"{i}.png": png(columns) for i in range(4)})
    image = read_archive(tmp_path / "data", size=10).images[0, 0]
    assert np.array_equal(image.numpy(), columns[:, 10:20])


def test_photographs_are_turned_as_their_camera_was_held(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees, clockwise
    buffer = io.BytesIO()
    pixels = pictures(1, 16)[0]
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    array, done = decode(buffer.getvalue(), "x.png")
    assert np.array_equal(array, np.rot90(pixels, -1)) and done == [
        "turned upright, as its EXIF says"
    ]


def chunk(kind: bytes, content: bytes) -> bytes:
    checked = kind + content
    return len(content).to_bytes(4, "big") + checked + zlib.crc32(checked).to_bytes(4, "big")


@pytest.mark.parametrize(
    "bits, colour, transparent, row, expected",
    [
        (4, 0, b"\0\x0f", b"\xf0", [255, 0]),  # pixels 15, transparent, and 0
        (2, 0, b"\0\x01", b"\x70", [255, 255]),  # pixels 1, transparent, and 3
        (16, 2, b"\x80\0" * 3, b"\x80\0" * 3 + bytes(6), [255, 0]),
    ],
)
def test_the_transparent_value_of_a_png_is_that_of_its_depth(
    bits, colour, transparent, row, expected
):
    header = (2).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([bits, colour, 0, 0, 0])
    raw = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"tRNS", transparent)
    raw += chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    array, done = decode(raw, "x.png", background="white")
    assert array[0, :, 0].tolist() == expected and "transparent, put on white" in done


def test_a_linked_folder_and_a_broken_link_are_named(tmp_path):
    folder = make_zip(tmp_path / "data", GOOD)
    (folder / "mnist").symlink_to(tmp_path)
    with pytest.raises(UserError, match="data/mnist: a link to a folder"):
        read_archive(folder)
    (folder / "mnist").unlink()
    (folder / "own.zip").rename(tmp_path / "cached")  # as DVC keeps files with cache.type symlink
    (folder / "own.zip").symlink_to(tmp_path / "cached")
    assert read_archive(folder).images.shape == (2, 1, 8, 8)
    (tmp_path / "cached").unlink()
    with pytest.raises(UserError, match=r"own\.zip: a broken link, pipe or device"):
        read_archive(folder)
