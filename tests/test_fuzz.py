"""Damaged and hostile files: whatever bytes a reader is given, it reads them or raises our error that names the file.

Each reader starts from a file that is right, in which hypothesis overwrites, removes and repeats stretches of bytes, and
from bytes of no meaning; it gets no more than MEMORY beyond what the process has. With more examples, and a report of how
many inputs were read and refused: `make fuzz`.
"""

from __future__ import annotations

import gzip
import io
import json
import resource
import struct
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from benchmarks.machine import describe
from src import archives, classifier, frechet, params, provenance
from src.common import artifact, dataset, reports
from src.common.errors import UserError
from src.diffusion import denoiser
from tests.conftest import ROOT
from tests.conftest import denoiser as small_denoiser

MEMORY = 384 * 2**20  # bytes


@contextmanager
def little_memory() -> Iterator[None]:
    """Within the block the process may map MEMORY more than before: what asks for more is refused by the kernel."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def refused_for_want_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(word in str(error) for word in ("allocate", "memory", "MemoryError"))


EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 40), st.one_of(st.binary(max_size=40), st.sampled_from([b"\0", b"\xff" * 8]))),
    max_size=6,
)


def damaged(whole: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """`whole` with, for each edit (where, removed, put), `removed` bytes from the share `where` on replaced by `put`."""
    for where, removed, put in edits:
        at = round(where * len(whole))
        whole = whole[:at] + put + whole[at + removed :]
    return whole


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def zipped(compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for i in range(6):
            archive.writestr(f"{i % 2}/{i}.png", png(i))
    return buffer.getvalue()


def moments(compressed: bool) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, mu=np.zeros(4), sigma=np.eye(4))
    return buffer.getvalue()


def model() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        denoiser.save(small_denoiser(), path, {"class_counts": [1] * 10})
        return path.read_bytes()


def classifier_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "classifier.safetensors"
        config = classifier.ClassifierConfig(8, 1, 10, "labels", 0.0)
        classifier.save(classifier.Classifier(config), path, {})
        return path.read_bytes()


def arrays() -> bytes:
    images, labels = torch.arange(64 * 4).to(torch.uint8).view(4, 1, 8, 8), torch.arange(4)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dataset.safetensors"
        dataset.save(dataset.Dataset("own", "0" * 12, images, labels, images.clone(), labels.clone()), path)
        return path.read_bytes()


def read_zip(path: Path) -> dataset.Dataset:
    return archives.read_zip(path, 0.5, 0, path.parent)


IDX = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (3, 4, 4)) + bytes(range(48))
READERS = {
    "zip stored": ("some.zip", lambda: zipped(zipfile.ZIP_STORED), read_zip),
    "zip deflated": ("some.zip", lambda: zipped(zipfile.ZIP_DEFLATED), read_zip),
    "png": ("some.png", lambda: png(0), lambda path: archives.decode_png(path.read_bytes(), str(path))),
    "idx": ("some-idx3-ubyte", lambda: IDX, lambda path: archives.read_idx(path, 3, path.parent)),
    "idx gzipped": ("some-idx3-ubyte.gz", lambda: gzip.compress(IDX), lambda path: archives.read_idx(path, 3, path.parent)),
    "npz stored": ("some.npz", lambda: moments(False), lambda path: frechet.load(path, 4)),
    "npz deflated": ("some.npz", lambda: moments(True), lambda path: frechet.load(path, 4)),
    "model": ("some.safetensors", model, denoiser.load),
    "classifier": ("some.safetensors", classifier_file, classifier.load),
    "arrays": ("some.safetensors", arrays, dataset.load),
    "features": ("some.safetensors", arrays, provenance.tensors),
    "params.yaml": ("params.yaml", (ROOT / "params.yaml").read_bytes, params.load),
}


@pytest.mark.parametrize("content", [
    "cosine_s: 0x" + "f" * 6000, "schedule: " + "59:" * 200 + "59.5", "seed: !!bool x",
    "seed: 2001-13-01", "seed: 0b_", "seed: !!int abc", "seed: !!float x", "seed: !!timestamp x", f"seed: {'9' * 5000}",
    "[" * 3000, "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
    "c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]\nseed: *d",
])
def test_yaml_that_its_reader_chokes_on_is_refused_briefly(tmp_path, content):
    (tmp_path / "params.yaml").write_text(content)
    with pytest.raises(UserError, match="params.yaml") as refused:
        params.load(tmp_path / "params.yaml")
    assert len(str(refused.value)) < 20_000


@pytest.mark.parametrize("changes", [
    {"heads": 0}, {"patch_size": 0}, {"multipliers": []}, {"heads": -1}, {"dropout": "x"}, {"classes": None}, {"res_blocks": -1},
    {"timesteps": True}, {"timesteps": 2.5},
])
def test_a_model_whose_header_makes_no_sense_is_refused(tmp_path, changes):
    model_with(tmp_path / "some.safetensors", **changes)
    with pytest.raises(UserError, match=r"some\.safetensors"):
        denoiser.load(tmp_path / "some.safetensors")


@pytest.mark.parametrize("change", [
    lambda header, weights: header["config"]["schedule"].update(beta_start=float("nan"), name="linear"),
    lambda header, weights: header["config"]["schedule"].update(cosine_s=10**400),
    lambda header, weights: header["config"]["schedule"].update(cosine_s=float("inf")),
    lambda header, weights: header["config"].update(prediction="foo"),
    lambda header, weights: header.update(about=[]), lambda header, weights: header.update(about={"class_counts": ["x"] * 10}),
    lambda header, weights: next(iter(weights.values())).fill_(float("nan")),
    lambda header, weights: weights.update({name: value.to(torch.int8) for name, value in weights.items()}),
])
def test_a_model_that_could_not_draw_is_refused(tmp_path, change):
    path = tmp_path / "some.safetensors"
    path.write_bytes(model())
    header, weights = artifact.load(path, "denoiser", "")
    weights = {name: value.clone() for name, value in weights.items()}
    change(header, weights)
    artifact.save(path, "denoiser", weights, header)
    with pytest.raises(UserError, match=r"some\.safetensors"):
        denoiser.load(path)


@pytest.mark.parametrize("header", ["[]", "null", "1", "[" * 100_000, "{", '{"kind": "denoiser"}'])
def test_a_header_that_is_none_is_refused(tmp_path, header):
    save_file({"x": torch.zeros(1)}, tmp_path / "some.safetensors", {"header": header, "dataset": header})
    for read in (denoiser.load, classifier.load, dataset.load):
        with pytest.raises(UserError, match=r"some\.safetensors"):
            read(tmp_path / "some.safetensors")


@pytest.mark.parametrize("reader", READERS)
def test_a_folder_in_place_of_the_file_is_refused(reader, tmp_path):
    name, _, read = READERS[reader]
    if reader == "png":
        pytest.skip("takes bytes")
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=name):
        read(tmp_path / name)


@pytest.mark.parametrize("reader", READERS)
def test_only_our_own_error_comes_out_and_memory_stays_bounded(reader, tmp_path, request):
    name, make, read = READERS[reader]
    path, whole, tried = tmp_path / name, make(), Counter()

    @given(st.one_of(EDITS.map(lambda edits: damaged(whole, edits)), st.binary(max_size=200)))
    def attempt(content: bytes) -> None:
        path.write_bytes(content)
        try:
            with little_memory():
                read(path)
            tried["read"] += 1
        except UserError as error:
            tried["refused"] += 1
            assert name in str(error) and not refused_for_want_of_memory(error)

    path.write_bytes(whole)
    read(path)
    attempt()
    assert tried["refused"]
    if report := request.config.getoption("--fuzz-report"):
        about, found = describe(), json.loads(Path(report).read_text()) if Path(report).exists() else {}
        if found.get("commit") != about["commit"]:
            found = about | {"readers": {}}
        found["readers"][reader] = dict(sorted(tried.items()))
        reports.write_json(report, found)


def idx_bomb(path: Path) -> None:
    """Half a gigabyte of zeros, as its header says, in half a megabyte."""
    with gzip.open(path, "wb") as file:
        file.write(bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (2**9, 2**10, 2**10)))
        for _ in range(2**9):
            file.write(bytes(2**20))


def idx_promise(path: Path) -> None:
    path.write_bytes(bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (2**12, 2**10, 2**10)))


def zip_of(path: Path, member: bytes, count: int = 4, **patched: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(count):
            archive.writestr(f"{i}.png", member)
    if patched:
        raw = bytearray(path.read_bytes())
        at = -1
        while (at := raw.find(b"PK\1\2", at + 1)) >= 0:
            struct.pack_into("<I", raw, at + 24, patched["announced"])
        path.write_bytes(raw)


def black_png() -> bytes:
    """A megapixel in a kilobyte."""
    buffer = io.BytesIO()
    Image.new("L", (1024, 1024)).save(buffer, "PNG")
    return buffer.getvalue()


MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 10))


def png_bomb(path: Path) -> None:
    raw = bytearray(png(0))
    struct.pack_into(">II", raw, 16, 30_000, 30_000)
    struct.pack_into(">I", raw, 29, zipfile.crc32(raw[12:29]))
    path.write_bytes(raw)


def npz_of(path: Path, shape: tuple[int, ...], content: bytes) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mu.npy", header.getvalue() + content)


def model_with(path: Path, **changes: object) -> None:
    path.write_bytes(model())
    header, weights = artifact.load(path, "denoiser", "")
    for key, value in changes.items():
        header["config"]["schedule" if key == "timesteps" else "unet"][key] = value
    artifact.save(path, "denoiser", weights, header)


def classifier_of_large_images(path: Path) -> None:
    path.write_bytes(classifier_file())
    header, weights = artifact.load(path, "classifier", "")
    header["config"]["image_size"] = 10**6
    artifact.save(path, "classifier", weights, header)


BOMBS = [
    ("idx gzipped", idx_bomb, "unpacks to more than 200 times its"),
    ("idx", idx_promise, "its header says .*, 4294967296 bytes; found 0"),
    ("zip deflated", lambda path: zip_of(path, bytes(2**24)), "unpacks to more than 200 times its"),
    ("zip deflated", lambda path: zip_of(path, bytes(2**28), announced=1000), "cannot be read as a zip"),
    ("png", png_bomb, "is not a whole PNG .*exceeds limit of .* pixels"),
    ("npz deflated", lambda path: npz_of(path, (10**12,), b""), r"of shape \(1000000000000,\)"),
    ("npz deflated", lambda path: npz_of(path, (4,), bytes(2**28)), "no item named 'sigma.npy'"),
    ("model", lambda path: model_with(path, base_channels=10**6), "do not fit its configuration"),
    ("model", lambda path: model_with(path, res_blocks=10**9), "1000000000 blocks on each of 2 levels"),
    ("model", lambda path: model_with(path, multipliers=[1] * 10**6), "blocks on each of 1000000 levels"),
    ("model", lambda path: model_with(path, timesteps=10**10), "timesteps: expected a whole number from 2 to"),
    ("model", lambda path: model_with(path, image_size=2**20), "images of side 1048576"),
    ("zip deflated", lambda path: zip_of(path, black_png(), count=500), "more than the .* bytes of pixels"),
    ("params.yaml", lambda path: path.write_text(MERGES), r"aliases such as \*a0 are not accepted"),
    ("classifier", classifier_of_large_images, "do not fit its configuration"),
]


@pytest.mark.parametrize("reader, make, said", BOMBS)
def test_what_claims_or_unpacks_to_much_is_refused_before_it_takes_memory(reader, make, said, tmp_path):
    name, _, read = READERS[reader]
    make(tmp_path / name)
    with pytest.raises(UserError, match=said) as refused, little_memory():
        read(tmp_path / name)
    assert name in str(refused.value) and len(str(refused.value)) < 2000
