"""Damaged and hostile files: a reader reads them or raises a UserError that names the file.

tools/fuzz.py has the readers and the attack; `make fuzz` searches for more, guided by coverage.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from src import classifier, model_file, params
from src.common import artifact, dataset
from src.common.errors import UserError
from tools.fuzz import (
    READERS,
    attack,
    classifier_bytes,
    little_memory,
    model_bytes,
    png_bytes,
    read_archive,
    read_image,
)

MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 10)
)


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_only_our_own_error_comes_out_and_memory_stays_bounded(reader, tmp_path):
    assert attack(reader, tmp_path, examples=150)["refused"]


@pytest.mark.parametrize("reader", READERS)
def test_a_folder_in_place_of_the_file_is_refused(reader, tmp_path):
    if READERS[reader].read in (read_archive, read_image):
        pytest.skip("takes bytes, or is a folder of images")
    path = tmp_path / READERS[reader].file
    path.mkdir()
    with pytest.raises(UserError, match=path.name):
        READERS[reader].read(path)


# --- params.yaml ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "cosine_s: 0x" + "f" * 6000,
        "schedule: " + "59:" * 200 + "59.5",
        "seed: !!bool x",
        "seed: 2001-13-01",
        "seed: 0b_",
        "seed: !!int abc",
        "seed: !!float x",
        "seed: !!timestamp x",
        f"seed: {'9' * 5000}",
        "[" * 3000,
        "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
        "c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]\n"
        "seed: *d",
    ],
)
def test_yaml_that_its_reader_chokes_on_is_refused_briefly(tmp_path, content):
    (tmp_path / "params.yaml").write_text(content)
    with pytest.raises(UserError, match="params.yaml") as refused:
        params.load(tmp_path / "params.yaml")
    assert len(str(refused.value)) < 20_000


# --- model files ----------------------------------------------------------------------------------


def write_model(path: Path, change: Callable[[dict, dict], object]) -> None:
    """A model file whose header and weights `change` has changed."""
    path.write_bytes(model_bytes())
    header, weights = artifact.load(path, "denoiser", "")
    weights = {name: value.clone() for name, value in weights.items()}
    change(header, weights)
    artifact.save(path, "denoiser", weights, header)


def model_with(path: Path, **values: object) -> None:
    """A model file with other values of its network's or schedule's configuration."""

    def change(header: dict, weights: dict) -> None:
        for key, value in values.items():
            header["config"]["schedule" if key == "timesteps" else "unet"][key] = value

    write_model(path, change)


@pytest.mark.parametrize(
    "values",
    [
        {"heads": 0},
        {"patch_size": 0},
        {"multipliers": []},
        {"heads": -1},
        {"dropout": "x"},
        {"dropout": math.nan},
        {"classes": None},
        {"res_blocks": -1},
        {"timesteps": True},
        {"timesteps": 2.5},
    ],
)
def test_a_model_whose_header_makes_no_sense_is_refused(tmp_path, values):
    path = tmp_path / "input.safetensors"
    model_with(path, **values)
    with pytest.raises(UserError, match=r"input\.safetensors"):
        model_file.load(path)


def nan_beta(header: dict, weights: dict) -> None:
    header["config"]["schedule"] |= {"beta_start": float("nan"), "name": "linear"}


def huge_cosine_s(header: dict, weights: dict) -> None:
    header["config"]["schedule"]["cosine_s"] = 10**400


def infinite_cosine_s(header: dict, weights: dict) -> None:
    header["config"]["schedule"]["cosine_s"] = float("inf")


def unknown_prediction(header: dict, weights: dict) -> None:
    header["config"]["prediction"] = "foo"


def about_is_a_list(header: dict, weights: dict) -> None:
    header["about"] = []


def counts_are_text(header: dict, weights: dict) -> None:
    header["about"]["class_counts"] = ["x"] * 10


def counts_overflow(header: dict, weights: dict) -> None:
    header["about"]["class_counts"] = [2**63] * 10


def no_fingerprint(header: dict, weights: dict) -> None:
    del header["about"]["dataset_fingerprint"]


def nan_label_dropout(header: dict, weights: dict) -> None:
    header["config"]["label_dropout"] = float("nan")


def nan_weights(header: dict, weights: dict) -> None:
    next(iter(weights.values())).fill_(float("nan"))


def int8_weights(header: dict, weights: dict) -> None:
    weights.update({name: value.to(torch.int8) for name, value in weights.items()})


@pytest.mark.parametrize(
    "change",
    [
        nan_beta,
        huge_cosine_s,
        infinite_cosine_s,
        unknown_prediction,
        about_is_a_list,
        counts_are_text,
        counts_overflow,
        no_fingerprint,
        nan_label_dropout,
        nan_weights,
        int8_weights,
    ],
)
def test_a_model_that_could_not_draw_is_refused(tmp_path, change):
    path = tmp_path / "input.safetensors"
    write_model(path, change)
    with pytest.raises(UserError, match=r"input\.safetensors"):
        model_file.load(path)


@pytest.mark.parametrize("header", ["[]", "null", "1", "[" * 100_000, "{", '{"kind": "denoiser"}'])
def test_a_header_that_is_none_is_refused(tmp_path, header):
    path = tmp_path / "input.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"header": header, "dataset": header})
    for read in (model_file.load, classifier.load, dataset.load):
        with pytest.raises(UserError, match=r"input\.safetensors"):
            read(path)


# --- what claims or unpacks to much ---------------------------------------------------------------


def idx_header(*shape: int) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)


def idx_bomb(path: Path) -> None:
    """Half a gigabyte of zeros, as its header says, in half a megabyte."""
    with gzip.open(path, "wb") as file:
        file.write(idx_header(2**9, 2**10, 2**10))
        for _ in range(2**9):
            file.write(bytes(2**20))


def idx_promise(path: Path) -> None:
    """A header that claims four gigabytes, and nothing after it."""
    path.write_bytes(idx_header(2**12, 2**10, 2**10))


def zip_of(
    path: Path,
    member: bytes,
    count: int = 4,
    announced: int | None = None,
    method: int = zipfile.ZIP_DEFLATED,
) -> None:
    """A zip of `count` equal members, which claims that each has `announced` bytes."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for i in range(count):
            archive.writestr(f"{i}.png", member)
    if announced is None:
        return
    raw = bytearray(path.read_bytes())
    entry = -1
    while (entry := raw.find(b"PK\1\2", entry + 1)) >= 0:
        struct.pack_into("<I", raw, entry + 24, announced)
    path.write_bytes(raw)


def black_png() -> bytes:
    """A megapixel in a kilobyte."""
    buffer = io.BytesIO()
    Image.new("L", (1024, 1024)).save(buffer, "PNG")
    return buffer.getvalue()


def png_bomb(path: Path) -> None:
    """A PNG that claims 900 megapixels."""
    raw = bytearray(png_bytes(0))
    struct.pack_into(">II", raw, 16, 30_000, 30_000)
    struct.pack_into(">I", raw, 29, zlib.crc32(raw[12:29]))
    path.write_bytes(raw)


def npz_of(
    path: Path, shape: tuple[int, ...], content: bytes, method: int = zipfile.ZIP_DEFLATED
) -> None:
    """An .npz whose only array claims this shape."""
    header = io.BytesIO()
    fields = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("mu.npy", header.getvalue() + content)


def npz_with_header(path: Path, version: bytes, header: bytes) -> None:
    """An .npz whose only array has this text as its header, in .npy format `version`."""
    length = len(header).to_bytes(2 if version == b"\1\0" else 4, "little")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mu.npy", b"\x93NUMPY" + version + length + header)


def classifier_of_large_images(path: Path) -> None:
    path.write_bytes(classifier_bytes())
    header, weights = artifact.load(path, "classifier", "")
    header["config"]["image_size"] = 10**6
    artifact.save(path, "classifier", weights, header)


MINUSES = b"{'descr': '<f8', 'fortran_order': False, 'shape': " + b"-" * 9000 + b"1}"
RATIO = "unpacks to more than 200 times its"
MISFIT = "do not fit its configuration"
BOMBS = [
    ("idx gzipped", idx_bomb, RATIO),
    ("idx", idx_promise, "its header says .*, 4294967296 bytes; found 0"),
    ("zip deflated", lambda path: zip_of(path, bytes(2**24)), RATIO),
    (
        "zip deflated",
        lambda path: zip_of(path, bytes(2**28), announced=1000),
        "member '0.png': cannot be read",
    ),
    ("png", png_bomb, "has more than .* pixels; make the image smaller"),
    ("npz deflated", lambda path: npz_of(path, (10**12,), b""), r"of shape \(1000000000000,\)"),
    ("npz deflated", lambda path: npz_of(path, (4,), bytes(2**28)), "no item named 'sigma.npy'"),
    (
        "zip deflated",
        lambda path: zip_of(path, bytes(2**24), method=zipfile.ZIP_BZIP2),
        r"member '0\.png' is compressed with bzip2",
    ),
    (
        "zip deflated",
        lambda path: zip_of(path, bytes(2**24), method=zipfile.ZIP_LZMA),
        r"member '0\.png' is compressed with lzma",
    ),
    (
        "npz deflated",
        lambda path: npz_of(path, (4,), bytes(2**28), zipfile.ZIP_BZIP2),
        r"member 'mu\.npy' is compressed with bzip2",
    ),
    ("npz deflated", lambda path: npz_with_header(path, b"\2\0", bytes(2**29)), "npy version"),
    ("npz deflated", lambda path: npz_with_header(path, b"\1\0", MINUSES), "cannot be parsed"),
    ("model", lambda path: model_with(path, base_channels=10**6), MISFIT),
    (
        "model",
        lambda path: model_with(path, res_blocks=10**9),
        "1000000000 blocks on each of 2 levels",
    ),
    (
        "model",
        lambda path: model_with(path, multipliers=[1] * 10**6),
        "blocks on each of 1000000 levels",
    ),
    (
        "model",
        lambda path: model_with(path, timesteps=10**10),
        "timesteps: expected an integer from 2 to",
    ),
    ("model", lambda path: model_with(path, image_size=2**20), "1 to 1024, got 1048576"),
    (
        "zip deflated",
        lambda path: zip_of(path, black_png(), count=500),
        "more than the .* bytes of pixels",
    ),
    ("params.yaml", lambda path: path.write_text(MERGES), r"aliases such as \*a0 are not accepted"),
    ("classifier", classifier_of_large_images, MISFIT),
]


@pytest.mark.slow
@pytest.mark.parametrize("reader, make, message", BOMBS)
def test_what_claims_or_unpacks_to_much_is_refused_before_it_takes_memory(
    reader, make, message, tmp_path
):
    path = tmp_path / READERS[reader].file
    make(path)
    with pytest.raises(UserError, match=message) as refused, little_memory():
        READERS[reader].read(path)
    assert path.name in str(refused.value) and len(str(refused.value)) < 2000
