"""Read archives as arrays: MNIST's IDX files, or a zip of PNGs. Archives are not trusted.

The pixels are never in memory all at once: they go to unnamed files, which the arrays map.
tools/get_data.py fetches the archives.
"""

from __future__ import annotations

import gzip
import io
import math
import stat
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from .common.dataset import MAX_SIDE, Dataset, fingerprint
from .common.errors import UserError
from .common.mapped import Spool, SpoolError
from .common.randomness import generator
from .common.zips import check_methods

KNOWN = {"1934b35f0e63": "MNIST", "f41e31dbdd31": "scikit-learn digits (8x8, not MNIST)"}

IDX_FILES = {
    "images": "train-images-idx3-ubyte",
    "labels": "train-labels-idx1-ubyte",
    "heldout_images": "t10k-images-idx3-ubyte",
    "heldout_labels": "t10k-labels-idx1-ubyte",
}

MAX_MEMBERS = 2_000_000
MAX_MEMBER_BYTES = 16 * 2**20
MAX_TOTAL_BYTES = 8 * 2**30
MAX_IDX_BYTES = 4 * 2**30
# Most bytes of pixels per byte of the archive, after the first FREE_PIXELS. MNIST as PNGs has 3.
MAX_PIXEL_RATIO = 500
FREE_PIXELS = 128 * 2**20
# Most unpacked bytes per packed byte, after the first FREE_BYTES. MNIST's IDX files have 5.
MAX_RATIO = 200
FREE_BYTES = 2**20
CHUNK = 2**20
MAX_CLASSES = 10_000


def read(
    folder: str | Path, heldout: float, seed: int, scratch: str | Path | None = None
) -> Dataset:
    """Read the data set in `folder`: the four IDX files (.gz or not) or one .zip of PNGs.

    The folder must hold nothing else. A zip has no test set, so a share `heldout` of its images is
    held out; `seed` chooses them. The images are mapped from unnamed files in the folder `scratch`
    (default: the system's folder for temporary files).

    Raises UserError for all other contents, SpoolError if the unnamed files cannot be written.
    """
    folder = Path(folder)
    scratch = Path(scratch or tempfile.gettempdir())
    if not folder.is_dir():
        raise UserError(f"{folder}/: not found; `make run` gets MNIST, or put a zip of PNGs there")
    files = {path.name: path for path in sorted(folder.iterdir()) if not path.name.startswith(".")}
    for path in files.values():
        if path.exists() and not path.is_file() and not path.is_dir():
            raise UserError(f"{path}: a device or pipe, not a file; move it elsewhere")
    stems = {name.removesuffix(".gz") for name in files}
    if stems == set(IDX_FILES.values()) and len(files) == len(IDX_FILES):
        return _read_idx_files(folder, scratch)
    if len(files) == 1 and next(iter(files)).lower().endswith(".zip"):
        return read_zip(next(iter(files.values())), heldout, seed, scratch)
    expected = ", ".join(f"{name}.gz" for name in IDX_FILES.values())
    raise UserError(
        f"{folder}/: expected the four MNIST files ({expected}) or one .zip "
        f"of PNGs, found {', '.join(files) or 'nothing'}; move the rest elsewhere"
    )


def _read_idx_files(folder: Path, scratch: Path) -> Dataset:
    """Read the four IDX files. Raises UserError if they do not fit together."""
    arrays = {}
    for key, stem in IDX_FILES.items():
        path = folder / f"{stem}.gz" if (folder / f"{stem}.gz").exists() else folder / stem
        arrays[key] = read_idx(path, 3 if "images" in key else 1, scratch)
    images, labels = arrays["images"][:, None], arrays["labels"]  # (N, H, W) -> (N, 1, H, W)
    heldout_images, heldout_labels = arrays["heldout_images"][:, None], arrays["heldout_labels"]
    _check_idx_part(folder, images, labels)
    _check_idx_part(folder, heldout_images, heldout_labels)
    if images.shape[1:] != heldout_images.shape[1:]:
        sizes = [f"{part.shape[3]}x{part.shape[2]}" for part in (images, heldout_images)]
        raise UserError(
            f"{folder}/: training images are {sizes[0]}, test images {sizes[1]}; "
            f"fetch the files again"
        )
    labels, heldout_labels = labels.long(), heldout_labels.long()
    if not set(heldout_labels.unique().tolist()) <= set(labels.unique().tolist()):
        raise UserError(
            f"{folder}/: the test images have classes that the training images lack; "
            f"fetch the files again"
        )
    mark = fingerprint(
        (len(images) + len(heldout_images), *images.shape[1:]),
        chain(_batches(images), _batches(heldout_images)),
        torch.cat([labels, heldout_labels]),
    )
    name = KNOWN.get(mark, "unknown IDX files")
    return Dataset(name, mark, images, labels, heldout_images, heldout_labels)


def _check_idx_part(folder: Path, images: Tensor, labels: Tensor) -> None:
    """Raises UserError unless images (N, 1, H, W) and labels (N,) fit together."""
    if len(images) != len(labels):
        raise UserError(
            f"{folder}/: {len(images)} images but {len(labels)} labels; fetch the files again"
        )
    _check_size(folder, *images.shape[-2:])
    if int(labels.max()) > 9:
        raise UserError(
            f"{folder}/: labels must be 0 to 9, found {int(labels.max())}; fetch the files again"
        )


def read_idx(path: str | Path, dims: int, scratch: str | Path) -> Tensor:
    """Read an IDX file of unsigned bytes, gzipped or not, as uint8 with `dims` axes.

    The format is described at yann.lecun.com/exdb/mnist. The bytes go to an unnamed file in the
    folder `scratch`. Raises UserError for any other file, SpoolError if the unnamed file cannot
    be written.
    """
    path, spool = Path(path), Spool(scratch)
    received = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            head = file.read(4 + 4 * dims)
            if len(head) < 4 + 4 * dims or head[:4] != bytes([0, 0, 8, dims]):
                raise UserError(
                    f"{path}: not an IDX file of unsigned bytes with {dims} axes; "
                    f"fetch the file again"
                )
            shape = tuple(int.from_bytes(head[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims))
            expected = math.prod(shape)
            if not 0 < expected <= MAX_IDX_BYTES:
                raise UserError(
                    f"{path}: its header says {shape}, {expected} bytes; "
                    f"expected 1 to {MAX_IDX_BYTES}; fetch the file again"
                )
            for chunk in _inflated(file, expected, f"{path}", path.stat().st_size):
                spool.add(chunk)
                received += len(chunk)
            more = len(file.read(1))
    except SpoolError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); fetch the file again") from None
    if received + more != expected:
        raise UserError(
            f"{path}: its header says {shape}, {expected} bytes; "
            f"found {'more' if more else received}; fetch the file again"
        )
    return spool.tensor(shape)


def _inflated(
    file: io.BufferedIOBase | IO[bytes], limit: int, name: str, packed: int
) -> Iterator[bytes]:
    """Yield up to `limit` bytes of a file in chunks. The file has `packed` bytes in its archive.

    Raises UserError, starting with `name`, after FREE_BYTES + MAX_RATIO * `packed` bytes.
    """
    total = 0
    while chunk := file.read(min(CHUNK, limit - total)):
        total += len(chunk)
        if total > FREE_BYTES + MAX_RATIO * packed:
            raise UserError(
                f"{name} unpacks to more than {MAX_RATIO} times its {packed} bytes; "
                f"make or fetch the archive again"
            )
        yield chunk


def read_zip(path: str | Path, heldout: float, seed: int, scratch: str | Path) -> Dataset:
    """Read the images of a zip in the order of their names. The pixels go to `scratch`.

    The folders 0, 1, 2 ... give the labels, if all images are in them. The arrays have three
    channels if an image has colour, else one; the mode of the PNGs does not matter. Raises
    UserError that names the wrong member.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            check_methods(archive)
            members = _png_members(path, archive)
            labels = _labels(path, [member.filename for member in members])
            held = split(len(members), labels, heldout, seed)
            parts = _decode(path, archive, members, held, Path(scratch))
    except (UserError, MemoryError, SpoolError):
        raise
    except Exception as error:  # zipfile and zlib raise many types of errors for damaged archives
        raise UserError(
            f"{path}: cannot be read as a zip ({error}); make or fetch the archive again"
        ) from None
    mark = fingerprint((len(held), *parts[0].shape[1:]), _in_order(parts, held), labels)
    kept_labels, held_labels = (None, None) if labels is None else (labels[~held], labels[held])
    return Dataset(KNOWN.get(mark, path.stem), mark, parts[0], kept_labels, parts[1], held_labels)


def _batches(images: Tensor) -> Iterator[Tensor]:
    """Yield images (N, C, H, W) in batches of about CHUNK bytes."""
    yield from images.split(max(1, CHUNK // images[0].numel()))


def _in_order(parts: tuple[Tensor, Tensor], held: Tensor) -> Iterator[Tensor]:
    """Yield the images of both parts, kept and held out, one at a time in the archive's order."""
    positions = [0, 0]
    for part in held.int().tolist():
        yield parts[part][positions[part]]
        positions[part] += 1


def split(count: int, labels: Tensor | None, heldout: float, seed: int) -> Tensor:
    """Choose the images to hold out, (N,) bool: the share `heldout` of each class.

    At least one image of each class stays for training, and at least 2 images are held out in all.
    Raises UserError if there are too few images.
    """
    random = generator(seed, "heldout split")
    if labels is None:
        groups = [torch.arange(count)]
    else:
        groups = [(labels == c).nonzero()[:, 0] for c in labels.unique()]
    held = torch.zeros(count, dtype=torch.bool)
    for group in groups:
        shuffled = group[torch.randperm(len(group), generator=random)]
        held[shuffled[: min(round(len(group) * heldout), len(group) - 1)]] = True
    for position in torch.randperm(count, generator=random):
        if held.sum() >= 2:
            break
        held[position] = labels is None or (labels[~held] == labels[position]).sum() > 1
    if held.sum() < 2 or (~held).sum() < 2:
        raise UserError(
            f"{count} images are too few to hold some out (expected at least 2 held out and 2 for "
            f"training); add images to the classes, or lower unpack.heldout"
        )
    return held


def _png_members(path: str | Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """List the images of the archive, sorted by name. Folders and hidden files are skipped.

    Raises UserError for any other member.
    """
    if len(archive.infolist()) > MAX_MEMBERS:
        raise UserError(
            f"{path}: {len(archive.infolist())} members, more than {MAX_MEMBERS}; "
            f"make a smaller archive"
        )
    members: dict[str, zipfile.ZipInfo] = {}
    total = 0
    for member in archive.infolist():
        _check_path(path, member)
        name, parts = member.filename, PurePosixPath(member.filename).parts
        if member.is_dir() or not parts or "__MACOSX" in parts or parts[-1].startswith("."):
            continue
        if not name.lower().endswith(".png"):
            raise UserError(
                f"{path}: member {name!r} is not a .png; make an archive with PNG images only"
            )
        if name in members:
            raise UserError(f"{path}: member {name!r} appears twice; make the archive again")
        # Checking the size in the header is enough: zipfile reads no more bytes of a member.
        total += member.file_size
        if member.file_size > MAX_MEMBER_BYTES or total > MAX_TOTAL_BYTES:
            raise UserError(
                f"{path}: member {name!r} unpacks to {member.file_size} bytes, {total} so far; "
                f"at most {MAX_MEMBER_BYTES} a member and {MAX_TOTAL_BYTES} in all are accepted"
            )
        members[name] = member
    if len(members) < 4:
        raise UserError(f"{path}: expected at least 4 PNG images, found {len(members)}; add some")
    return sorted(members.values(), key=lambda member: member.filename)


def _check_path(path: str | Path, member: zipfile.ZipInfo) -> None:
    """Raises UserError if the member is a link or lies outside the archive."""
    name, parts = member.filename, PurePosixPath(member.filename).parts
    if name.startswith("/") or "\\" in name or ".." in parts or (parts and ":" in parts[0]):
        raise UserError(
            f"{path}: member {name!r} points outside the archive; "
            f"make the archive again with plain names"
        )
    if stat.S_ISLNK(member.external_attr >> 16):
        raise UserError(
            f"{path}: member {name!r} is a link; make the archive again with the files themselves"
        )


def _labels(path: str | Path, names: list[str]) -> Tensor | None:
    """Labels (N,) int64 from the class folders 0, 1, 2 ...; None if no image is in such a folder.

    Raises UserError if only some images are in class folders, or if a class has no folder.
    """
    folders = [PurePosixPath(name).parent.name for name in names]
    numbered = [folder.isascii() and folder.isdigit() for folder in folders]
    if not any(numbered):
        return None
    if not all(numbered):
        stray = names[numbered.index(False)]
        raise UserError(
            f"{path}: {stray!r} lies outside the class folders, but other images are in them; "
            f"put all images into folders 0/, 1/, 2/ ..."
        )
    labels = [int(folder[:9]) for folder in folders]  # longer numbers fail below, as a gap
    if len(set(labels)) > MAX_CLASSES:
        raise UserError(
            f"{path}: {len(set(labels))} class folders, more than {MAX_CLASSES}; use fewer folders"
        )
    missing = set(range(min(max(labels) + 1, len(labels) + 1))) - set(labels)
    if missing or max(labels) >= len(labels):
        raise UserError(
            f"{path}: class folders must count from 0 without a gap; "
            f"found folder {max(labels)} but not {min(missing, default='?')}"
        )
    return torch.tensor(labels)


class _Pixels:
    """Collects images, kept and held out, on disk. They have one channel until one has colour."""

    def __init__(self, scratch: Path):
        self.scratch = scratch
        self.spools = [Spool(scratch), Spool(scratch)]
        self.counts = [0, 0]
        self.channels = 1
        self.size: tuple[int, ...] = ()  # (H, W) of all images

    def add(self, image: Tensor, part: int) -> None:
        """Add an image (C, H, W) to `part` 0 (kept) or 1 (held out)."""
        self.size = tuple(image.shape[1:])
        if len(image) == 3 and self.channels == 1 and not (image == image[:1]).all():
            pairs = zip(self.spools, self.counts, strict=True)
            self.spools = [self._coloured(spool, count) for spool, count in pairs]
            self.channels = 3
        self.spools[part].add(image[:1] if self.channels == 1 else image.expand(3, -1, -1))
        self.counts[part] += 1

    def _coloured(self, spool: Spool, count: int) -> Spool:
        """The same `count` grey images with three equal channels."""
        coloured = Spool(self.scratch)
        if count:
            for batch in _batches(spool.tensor((count, 1, *self.size))):
                coloured.add(batch.expand(-1, 3, -1, -1))
        return coloured

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Images kept and held out: (N, C, H, W) uint8 each. Each part must have an image."""
        kept, heldout = (
            spool.tensor((count, self.channels, *self.size))
            for spool, count in zip(self.spools, self.counts, strict=True)
        )
        return kept, heldout


def _decode(
    path: Path,
    archive: zipfile.ZipFile,
    members: list[zipfile.ZipInfo],
    held: Tensor,
    scratch: Path,
) -> tuple[Tensor, Tensor]:
    """Decode the images, kept and held out: (N, C, H, W) uint8, one channel if none has colour."""
    pixels = _Pixels(scratch)
    side: int | None = None
    progress = tqdm(members, desc="unpack", unit="image")
    for member, part in zip(progress, held.int().tolist(), strict=True):
        name = f"{path}: member {member.filename!r}"
        with archive.open(member) as file:
            raw = b"".join(_inflated(file, MAX_MEMBER_BYTES, name, member.compress_size))
        image = torch.from_numpy(decode_png(raw, name))
        if side is None:
            _check_size(path, *image.shape[:2])
            side = len(image)
            _check_pixels(path, len(members), side)
        if image.shape[:2] != (side, side):
            raise UserError(
                f"{name} is {image.shape[1]}x{image.shape[0]}, others are {side}x{side}; "
                f"make all images the same size"
            )
        pixels.add(image[None] if image.ndim == 2 else image.permute(2, 0, 1), part)
    return pixels.tensors()


def _check_pixels(path: Path, count: int, side: int) -> None:
    """Raises UserError if the archive unpacks to too many bytes of pixels for its size."""
    limit = min(MAX_TOTAL_BYTES, FREE_PIXELS + MAX_PIXEL_RATIO * path.stat().st_size)
    if count * side * side * 3 > limit:
        raise UserError(
            f"{path}: {count} images of {side}x{side} take more than the {limit} bytes of pixels "
            f"that an archive of this size may hold; make a smaller archive"
        )


def decode_png(raw: bytes | bytearray, name: str) -> np.ndarray:
    """Decode an 8-bit greyscale or RGB PNG: (H, W) or (H, W, 3) uint8.

    Raises UserError, starting with `name`, for any other file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(raw), formats=["PNG"]) as image:
                if image.mode not in ("L", "RGB"):
                    raise UserError(
                        f"{name} has mode {image.mode}; "
                        f"expected 8-bit greyscale (L) or RGB without transparency"
                    )
                if max(image.size) > MAX_SIDE:
                    raise UserError(
                        f"{name} is {image.width}x{image.height}; "
                        f"at most {MAX_SIDE} pixels a side are accepted"
                    )
                return np.array(image)
    except UserError:
        raise
    except Exception as error:  # Pillow raises many types of errors for damaged files
        raise UserError(f"{name} is not a whole PNG ({type(error).__name__}: {error})") from None


def _check_size(path: str | Path, height: int, width: int) -> None:
    """Raises UserError unless images of this size fit the network."""
    if height != width or height % 4:
        raise UserError(
            f"{path}: images are {width}x{height}; expected square images, side divisible by 4"
        )
