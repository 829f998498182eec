"""Archives in, arrays out: MNIST's IDX files, or a zip of PNGs. What is in an archive is not to be trusted.

Pixels go through memory a few at a time: the arrays lie in unnamed files and are mapped. Knows nothing of where archives come
from (tools/get_data.py) or of what is done with the arrays.
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
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from src.common.dataset import MAX_SIDE, Dataset, fingerprint
from src.common.errors import UserError
from src.common.mapped import Spool, SpoolError
from src.common.randomness import generator

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
MAX_PIXEL_RATIO = 500  # of bytes of pixels to bytes of the archive, once FREE_PIXELS are there; MNIST as PNGs has 3
FREE_PIXELS = 128 * 2**20
MAX_RATIO = 200  # of bytes that come out to bytes in the archive, once FREE_BYTES have come out; MNIST's IDX files have 5
FREE_BYTES = 2**20
CHUNK = 2**20
MAX_CLASSES = 10_000


def read(folder: str | Path, heldout: float, seed: int, scratch: str | Path | None = None) -> Dataset:
    """The data set in `folder`: the four IDX files (.gz or not), or one .zip of PNGs, and nothing else.

    A zip has no test set of its own: the share `heldout` of it, chosen by `seed`, is held out. The images are mapped from
    unnamed files in the folder `scratch`, or where the system has its temporary files. Raises UserError; SpoolError where those
    files cannot be written.
    """
    folder, scratch = Path(folder), Path(scratch or tempfile.gettempdir())
    if not folder.is_dir():
        raise UserError(f"{folder}/: not found; `make run` gets MNIST, or put a zip of PNGs there")
    files = {path.name: path for path in sorted(folder.iterdir()) if not path.name.startswith(".")}
    stems = {name.removesuffix(".gz") for name in files}
    if stems == set(IDX_FILES.values()) and len(files) == len(IDX_FILES):
        return _read_idx_files(folder, scratch)
    if len(files) == 1 and next(iter(files)).lower().endswith(".zip"):
        return read_zip(next(iter(files.values())), heldout, seed, scratch)
    raise UserError(
        f"{folder}/: expected the four MNIST files ({', '.join(f'{name}.gz' for name in IDX_FILES.values())}) or one .zip "
        f"of PNGs, found {', '.join(files) or 'nothing'}; move the rest elsewhere"
    )


def _read_idx_files(folder: Path, scratch: Path) -> Dataset:
    arrays = {}
    for key, stem in IDX_FILES.items():
        path = folder / f"{stem}.gz" if (folder / f"{stem}.gz").exists() else folder / stem
        arrays[key] = read_idx(path, 3 if "images" in key else 1, scratch)
    images, labels = arrays["images"][:, None], arrays["labels"]  # (N, H, W) -> (N, 1, H, W)
    heldout_images, heldout_labels = arrays["heldout_images"][:, None], arrays["heldout_labels"]
    for part, part_labels in [(images, labels), (heldout_images, heldout_labels)]:
        if len(part) != len(part_labels):
            raise UserError(f"{folder}/: {len(part)} images but {len(part_labels)} labels; fetch the files again")
        _check_size(folder, *part.shape[-2:])
        if int(part_labels.max()) > 9:
            raise UserError(f"{folder}/: labels must be 0 to 9, found {int(part_labels.max())}; fetch the files again")
    if images.shape[1:] != heldout_images.shape[1:]:
        raise UserError(f"{folder}/: training images are {images.shape[2:]}, test images {heldout_images.shape[2:]}")
    labels, heldout_labels = labels.long(), heldout_labels.long()
    if not set(heldout_labels.unique().tolist()) <= set(labels.unique().tolist()):
        raise UserError(f"{folder}/: the test images have classes that the training images lack; fetch the files again")
    batches = chain(_batches(images), _batches(heldout_images))
    shape, all_labels = (len(images) + len(heldout_images), *images.shape[1:]), torch.cat([labels, heldout_labels])
    mark = fingerprint(shape, batches, all_labels)
    return Dataset(KNOWN.get(mark, "unknown IDX files"), mark, images, labels, heldout_images, heldout_labels)


def read_idx(path: str | Path, dims: int, scratch: str | Path) -> Tensor:
    """An IDX file of unsigned bytes (format: yann.lecun.com/exdb/mnist), gzipped or not: uint8, of `dims` axes.

    Its bytes go to an unnamed file in the folder `scratch`.
    """
    path, spool, found = Path(path), Spool(scratch), 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            head = file.read(4 + 4 * dims)
            if len(head) < 4 + 4 * dims or head[:4] != bytes([0, 0, 8, dims]):
                raise UserError(f"{path}: not an IDX file of unsigned bytes with {dims} axes; fetch the file again")
            shape = tuple(int.from_bytes(head[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims))
            expected = math.prod(shape)
            if not 0 < expected <= MAX_IDX_BYTES:
                raise UserError(
                    f"{path}: its header says {shape}, {expected} bytes; expected 1 to {MAX_IDX_BYTES}; fetch the file again"
                )
            for chunk in _inflated(file, expected, f"{path}", path.stat().st_size):
                spool.add(chunk)
                found += len(chunk)
            more = len(file.read(1))
    except SpoolError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); fetch the file again") from None
    if found + more != expected:
        raise UserError(
            f"{path}: its header says {shape}, {expected} bytes; found {'more' if more else found}; fetch the file again"
        )
    return spool.tensor(shape)


def _inflated(file: BinaryIO, limit: int, name: str, packed: int) -> Iterator[bytes]:
    """Up to `limit` bytes, in chunks, of a file that has `packed` bytes in its archive, never more than MAX_RATIO times as many.

    Raises UserError that starts with `name`.
    """
    found = 0
    while chunk := file.read(min(CHUNK, limit - found)):
        found += len(chunk)
        if found > FREE_BYTES + MAX_RATIO * packed:
            raise UserError(
                f"{name} unpacks to more than {MAX_RATIO} times its {packed} bytes, as no honest archive of images does; "
                f"make or fetch the archive again"
            )
        yield chunk


def read_zip(path: str | Path, heldout: float, seed: int, scratch: str | Path) -> Dataset:
    """Images in order of their names, and labels where all lie in folders 0, 1, 2 ...; the pixels go to `scratch`.

    There is one channel if no image has colour, whatever mode the files have, else three. Raises UserError naming the
    offending member.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = _png_members(path, archive)
            labels = _labels(path, [member.filename for member in members])
            held = split(len(members), labels, heldout, seed)
            parts = _decode(path, archive, members, held, Path(scratch))
    except (UserError, MemoryError, SpoolError):
        raise
    except Exception as error:  # zipfile and the decompressors raise many kinds on damaged archives
        raise UserError(f"{path}: cannot be read as a zip ({error}); make or fetch the archive again") from None
    mark = fingerprint((len(held), *parts[0].shape[1:]), _in_order(parts, held), labels)
    kept_labels, held_labels = (None, None) if labels is None else (labels[~held], labels[held])
    return Dataset(KNOWN.get(mark, path.stem), mark, parts[0], kept_labels, parts[1], held_labels)


def _batches(images: Tensor) -> Iterator[Tensor]:
    """Images (N, C, H, W), about a CHUNK at a time."""
    yield from images.split(max(1, CHUNK // images[0].numel()))


def _in_order(parts: tuple[Tensor, Tensor], held: Tensor) -> Iterator[Tensor]:
    """The images kept and held out (N, C, H, W) one by one, in the order that they had in the archive."""
    at = [0, 0]
    for part in held.int().tolist():
        yield parts[part][at[part]]
        at[part] += 1


def split(count: int, labels: Tensor | None, heldout: float, seed: int) -> Tensor:
    """Which images are held out, (N,) bool: the share `heldout` of each class, never all of one, at least 2 in all."""
    random = generator(seed, "heldout split")
    groups = [torch.arange(count)] if labels is None else [(labels == c).nonzero()[:, 0] for c in labels.unique()]
    held = torch.zeros(count, dtype=torch.bool)
    for group in groups:
        shuffled = group[torch.randperm(len(group), generator=random)]
        held[shuffled[: min(round(len(group) * heldout), len(group) - 1)]] = True
    for position in torch.randperm(count, generator=random):
        if held.sum() >= 2:
            break
        held[position] = labels is None or (labels[~held] == labels[position]).sum() > 1
    if held.sum() < 2 or (~held).sum() < 2:
        raise UserError(f"{count} images are too few to hold some out; at least two classes or folders need more than one image")
    return held


def _png_members(path: str | Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    members, seen, total = [], set(), 0
    if len(archive.infolist()) > MAX_MEMBERS:
        raise UserError(f"{path}: {len(archive.infolist())} members, more than {MAX_MEMBERS}")
    for member in archive.infolist():
        name, parts = member.filename, PurePosixPath(member.filename).parts
        if name.startswith("/") or "\\" in name or ".." in parts or (parts and ":" in parts[0]):
            raise UserError(f"{path}: member {name!r} points outside the archive; make the archive again with plain names")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UserError(f"{path}: member {name!r} is a link; make the archive again with the files themselves")
        if member.is_dir() or not parts or "__MACOSX" in parts or parts[-1].startswith("."):
            continue
        if not name.lower().endswith(".png"):
            raise UserError(f"{path}: member {name!r} is not a .png; the archive may hold PNG images only")
        if name in seen:
            raise UserError(f"{path}: member {name!r} appears twice; make the archive again")
        total += member.file_size
        if member.file_size > MAX_MEMBER_BYTES or total > MAX_TOTAL_BYTES:  # of zips, the reader gives no more than announced
            raise UserError(
                f"{path}: member {name!r} unpacks to {member.file_size} bytes, {total} so far; at most {MAX_MEMBER_BYTES} "
                f"a member and {MAX_TOTAL_BYTES} in all are accepted"
            )
        seen.add(name)
        members.append(member)
    if len(members) < 4:
        raise UserError(f"{path}: expected at least 4 PNG images, found {len(members)}")
    return sorted(members, key=lambda member: member.filename)


def _labels(path: str | Path, names: list[str]) -> Tensor | None:
    """Class folders 0, 1, 2 ...; None for images in any one other folder or in none."""
    folders = [PurePosixPath(name).parent.name for name in names]
    numbered = [folder.isascii() and folder.isdigit() for folder in folders]
    if not any(numbered):
        return None
    if not all(numbered):
        stray = names[numbered.index(False)]
        raise UserError(f"{path}: {stray!r} lies outside the class folders that other images are in; use 0/ ... 9/ for all")
    labels = [int(folder[:9]) for folder in folders]  # longer numbers are refused below, as gaps
    if len(set(labels)) > MAX_CLASSES:
        raise UserError(f"{path}: {len(set(labels))} class folders, more than {MAX_CLASSES}; put the images into fewer")
    missing = set(range(min(max(labels) + 1, len(labels) + 1))) - set(labels)
    if missing or max(labels) >= len(labels):
        raise UserError(
            f"{path}: class folders must count from 0 without a gap; found {max(labels)} but not {min(missing, default='?')}"
        )
    return torch.tensor(labels)


def _decode(
    path: Path, archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], held: Tensor, scratch: Path
) -> tuple[Tensor, Tensor]:
    """Images kept and held out: (N, C, H, W) uint8, of one channel until an image has colour."""
    spools, counts, channels, side = [Spool(scratch), Spool(scratch)], [0, 0], 1, None
    for member, part in zip(tqdm(members, desc="unpack", unit="image"), held.int().tolist(), strict=True):
        name = f"{path}: member {member.filename!r}"
        with archive.open(member) as file:
            raw = b"".join(_inflated(file, MAX_MEMBER_BYTES, name, member.compress_size))
        image = torch.from_numpy(decode_png(raw, name))
        if side is None:
            _check_size(path, *image.shape[:2])
            side = len(image)
            limit = min(MAX_TOTAL_BYTES, FREE_PIXELS + MAX_PIXEL_RATIO * path.stat().st_size)
            if len(members) * side * side * 3 > limit:
                raise UserError(
                    f"{path}: {len(members)} images of {side}x{side} are more than the {limit} bytes of "
                    f"pixels that are accepted of an archive of its size; make a smaller archive"
                )
        if image.shape[:2] != (side, side):
            raise UserError(
                f"{name} is {image.shape[1]}x{image.shape[0]}, others are {side}x{side}; all images must be of one size"
            )
        image = image[None] if image.ndim == 2 else image.permute(2, 0, 1)
        if len(image) == 3 and channels == 1 and not (image == image[:1]).all():
            channels, shapes = 3, [(count, 1, side, side) for count in counts]
            spools = [_coloured(spool, shape, scratch) for spool, shape in zip(spools, shapes, strict=True)]
        spools[part].add(image[:1] if channels == 1 else image.expand(3, -1, -1))
        counts[part] += 1
    kept, heldout = (spool.tensor((count, channels, side, side)) for spool, count in zip(spools, counts, strict=True))
    return kept, heldout


def _coloured(spool: Spool, shape: tuple[int, int, int, int], scratch: Path) -> Spool:
    """The same grey images (N, 1, H, W) with three equal channels."""
    found = Spool(scratch)
    if shape[0]:
        for batch in _batches(spool.tensor(shape)):
            found.add(batch.expand(-1, 3, -1, -1))
    return found


def decode_png(raw: bytes | bytearray, name: str) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 pixels of an 8-bit greyscale or RGB PNG. Raises UserError that starts with `name`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(raw), formats=["PNG"]) as image:
                if image.mode not in ("L", "RGB"):
                    raise UserError(f"{name} has mode {image.mode}; expected 8-bit greyscale (L) or RGB without transparency")
                if max(image.size) > MAX_SIDE:
                    raise UserError(f"{name} is {image.width}x{image.height}; at most {MAX_SIDE} a side is accepted")
                return np.array(image)
    except UserError:
        raise
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise UserError(f"{name} is not a whole PNG ({type(error).__name__}: {error})") from None


def _check_size(path: str | Path, height: int, width: int) -> None:
    if height != width or height % 4:
        raise UserError(f"{path}: images are {width}x{height}; expected square ones with a side divisible by 4")
