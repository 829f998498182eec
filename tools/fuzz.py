"""Readers of files from outside, and damaged files for them.

A reader must read any bytes or raise a UserError that names the file, within MEMORY. Tests call
`attack`, with damaged files that hypothesis makes. tools/guided.py searches for more.
"""

from __future__ import annotations

import gzip
import io
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from src import archives, classifier, model_file, params, provenance
from src.archives import idx, members
from src.archives.decode import decode
from src.common import dataset
from src.common.errors import UserError
from src.diffusion.denoiser import Denoiser, DenoiserConfig
from src.diffusion.schedule import ScheduleConfig
from src.diffusion.unet import UNetConfig
from src.measure import frechet

ROOT = Path(__file__).parent.parent
ABOUT = {"dataset": "own", "dataset_fingerprint": "0" * 12, "class_counts": [1] * 10}
MEMORY = 384 * 2**20  # bytes

# (where, removed, put): see `damaged`.
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 40),
        st.one_of(st.binary(max_size=40), st.sampled_from([b"\0", b"\xff" * 8])),
    ),
    max_size=6,
)


def damaged(content: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """Apply edits (where, removed, put) to `content`.

    Each replaces `removed` bytes by `put`. `where` is their position, as a share of the length.
    """
    for where, removed, put in edits:
        start = round(where * len(content))
        content = content[:start] + put + content[start + removed :]
    return content


@contextmanager
def little_memory() -> Iterator[None]:
    """On Linux, allow the process MEMORY more bytes than it has now; the kernel refuses more."""
    if sys.platform != "linux":
        yield
        return
    import resource  # Windows has none

    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def lacks_memory(error: Exception) -> bool:
    """Whether the error comes from a request for too much memory."""
    words = ("allocate", "memory", "MemoryError")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


# --- valid files ----------------------------------------------------------------------------------

IDX = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (3, 4, 4)) + bytes(range(48))


def png_bytes(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def zip_bytes(compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for i in range(6):
            archive.writestr(f"{i % 2}/{i}.png", png_bytes(i))
    return buffer.getvalue()


def jpeg_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).save(
        buffer, "JPEG"
    )
    return buffer.getvalue()


def tar_bytes(mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for i in range(6):
            info = tarfile.TarInfo(f"{i % 2}/{i}.png")
            info.size = len(content := png_bytes(i))
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def npz_bytes(compressed: bool) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, mu=np.zeros(4), sigma=np.eye(4))
    return buffer.getvalue()


def model_bytes() -> bytes:
    """The file of a small denoiser with random weights."""
    unet = UNetConfig(
        image_size=8,
        image_channels=1,
        classes=10,
        patch_size=2,
        base_channels=8,
        multipliers=(1, 2),
        res_blocks=1,
        attention_resolutions=(2,),
        heads=2,
        dropout=0.0,
        time_width=16,
    )
    schedule = ScheduleConfig("cosine", 1000, 1e-4, 0.02, 0.008)
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        path = Path(folder) / "model.safetensors"
        denoiser = Denoiser(DenoiserConfig(unet, schedule, "v", 0.1))
        model_file.save(denoiser, path, ABOUT)
        return path.read_bytes()


def classifier_bytes() -> bytes:
    """The file of a classifier with random weights."""
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        path = Path(folder) / "classifier.safetensors"
        config = classifier.ClassifierConfig(8, 1, 10, "labels", 0.0)
        classifier.save(classifier.Classifier(config), path, {})
        return path.read_bytes()


def dataset_bytes() -> bytes:
    """The file of a data set with four images."""
    images = torch.arange(64 * 4).to(torch.uint8).view(4, 1, 8, 8)
    labels = torch.arange(4)
    own = dataset.Dataset("own", "0" * 12, images, labels, images.clone(), labels.clone())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dataset.safetensors"
        dataset.save(own, path)
        return path.read_bytes()


# --- readers --------------------------------------------------------------------------------------


UNPACK = params.Unpack(
    heldout=0.5,
    seed=0,
    labels="auto",
    split="auto",
    size=None,
    background="black",
    transpose="auto",
    max_files=2_000_000,
    max_gib=8,
)


def read_archive(path: Path) -> dataset.Dataset:
    """Read a folder with a copy of this archive alone."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        (Path(folder) / path.name).write_bytes(path.read_bytes())
        return archives.read(folder, UNPACK, folder)[0]


def read_image(path: Path) -> object:
    return decode(path.read_bytes(), str(path))


def read_idx(path: Path) -> torch.Tensor:
    return idx.read(members.of_file(path, path.name), 3, path.parent, UNPACK)


def read_npz(path: Path) -> frechet.Moments:
    return frechet.load(path, 4)


@dataclass(frozen=True)
class Reader:
    """A function that reads files from outside, and a valid file for it."""

    file: str  # a file name that the reader accepts
    make: Callable[[], bytes]  # returns the bytes of a valid file
    read: Callable[[Path], object]


READERS = {
    "zip stored": Reader("input.zip", lambda: zip_bytes(zipfile.ZIP_STORED), read_archive),
    "zip deflated": Reader("input.zip", lambda: zip_bytes(zipfile.ZIP_DEFLATED), read_archive),
    "tar": Reader("input.tar", lambda: tar_bytes("w"), read_archive),
    "tar gzipped": Reader("input.tar.gz", lambda: tar_bytes("w:gz"), read_archive),
    "png": Reader("input.png", lambda: png_bytes(0), read_image),
    "jpeg": Reader("input.jpg", jpeg_bytes, read_image),
    "idx": Reader("input-idx3-ubyte", lambda: IDX, read_idx),
    "idx gzipped": Reader("input-idx3-ubyte.gz", lambda: gzip.compress(IDX), read_idx),
    "npz stored": Reader("input.npz", lambda: npz_bytes(False), read_npz),
    "npz deflated": Reader("input.npz", lambda: npz_bytes(True), read_npz),
    "model": Reader("input.safetensors", model_bytes, model_file.load),
    "classifier": Reader("input.safetensors", classifier_bytes, classifier.load),
    "arrays": Reader("input.safetensors", dataset_bytes, dataset.load),
    "features": Reader("input.safetensors", dataset_bytes, provenance.tensors),
    "params.yaml": Reader("params.yaml", (ROOT / "params.yaml").read_bytes, params.load),
}


def give(target: Reader, path: Path, content: bytes) -> str:
    """Give a reader a file with this content. Returns whether it was "read" or "refused".

    Raises AssertionError if the UserError does not name the file or speaks of memory, and whatever
    else the reader raises.
    """
    path.write_bytes(content)
    try:
        with little_memory():
            target.read(path)
        return "read"
    except UserError as error:
        if target.file not in str(error) or lacks_memory(error):
            raise AssertionError(f"refused with {error}") from None
        return "refused"


def attack(reader: str, folder: Path, examples: int) -> Counter[str]:
    """Give a reader its valid file, then `examples` damaged ones, as files in `folder`.

    Returns how many were "read" and "refused". The examples are the same each time.

    Raises AssertionError if the reader raises anything but a UserError, if the error does not name
    the file, or if the reader requests too much memory. The message has the smallest example that
    hypothesis finds.
    """
    target = READERS[reader]
    path, right = folder / target.file, target.make()
    counts: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(EDITS.map(lambda edits: damaged(right, edits)), st.binary(max_size=200)))
    def attempt(content: bytes) -> None:
        counts[give(target, path, content)] += 1

    path.write_bytes(right)
    target.read(path)
    try:
        attempt()
    except Exception as error:
        raise AssertionError(f"{reader}: {type(error).__name__}: {error}") from error
    return counts
