"""Damaged and hostile files: whatever bytes a reader is given, it reads them or raises our error that names the file.

Each reader starts from a file that is right, in which hypothesis overwrites, removes and repeats stretches of bytes, and
from bytes of no meaning. More examples than in a quick run: `pytest tests/test_fuzz.py --hypothesis-profile soak`.
"""

from __future__ import annotations

import gzip
import io
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st
from PIL import Image

from src import archives, classifier, dataset, denoiser, frechet, params
from src.errors import UserError
from tests.conftest import ROOT
from tests.conftest import denoiser as small_denoiser

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


IDX = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (3, 4, 4)) + bytes(range(48))
READERS = {
    "zip stored": ("some.zip", lambda: zipped(zipfile.ZIP_STORED), archives.read_png_zip),
    "zip deflated": ("some.zip", lambda: zipped(zipfile.ZIP_DEFLATED), archives.read_png_zip),
    "png": ("some.png", lambda: png(0), lambda path: archives.decode_png(path.read_bytes(), str(path))),
    "idx": ("some-idx3-ubyte", lambda: IDX, lambda path: archives.read_idx(path, dims=3)),
    "idx gzipped": ("some-idx3-ubyte.gz", lambda: gzip.compress(IDX), lambda path: archives.read_idx(path, dims=3)),
    "npz stored": ("some.npz", lambda: moments(False), lambda path: frechet.load(path, 4)),
    "npz deflated": ("some.npz", lambda: moments(True), lambda path: frechet.load(path, 4)),
    "model": ("some.safetensors", model, denoiser.load),
    "classifier": ("some.safetensors", classifier_file, classifier.load),
    "arrays": ("some.safetensors", arrays, dataset.load),
    "params.yaml": ("params.yaml", (ROOT / "params.yaml").read_bytes, params.load),
}


@pytest.mark.parametrize("content", [
    "seed: 2001-13-01", "seed: 0b_", "seed: !!int abc", "seed: !!float x", "seed: !!timestamp x", f"seed: {'9' * 5000}",
    "[" * 3000, "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
    "c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]\nseed: *d",
])
def test_yaml_that_its_reader_chokes_on_is_refused_briefly(tmp_path, content):
    (tmp_path / "params.yaml").write_text(content)
    with pytest.raises(UserError, match="params.yaml") as refused:
        params.load(tmp_path / "params.yaml")
    assert len(str(refused.value)) < 20_000


@pytest.mark.parametrize("reader", READERS)
def test_only_our_own_error_comes_out(reader, tmp_path):
    name, make, read = READERS[reader]
    path, whole = tmp_path / name, make()

    @given(st.one_of(EDITS.map(lambda edits: damaged(whole, edits)), st.binary(max_size=200)))
    def attempt(content: bytes) -> None:
        path.write_bytes(content)
        try:
            read(path)
            event("read")
        except UserError as error:
            event("refused")
            assert name in str(error)

    attempt()
