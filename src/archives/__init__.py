"""Read the data set in a folder as arrays: IDX files, or images in folders, a zip or a tar.

The files are not trusted. The pixels are never in memory all at once: they go to unnamed files,
which the arrays map. tools/get_data.py fetches the archives.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..common.dataset import Dataset, fingerprint
from ..common.errors import UserError
from ..common.mapped import Spool
from ..common.randomness import generator
from ..params import Unpack
from . import idx
from .decode import check_side, decode, resized
from .layout import Layout, arrange
from .members import Member, check_bytes
from .source import Source, find

KNOWN = {"1934b35f0e63": "MNIST", "f41e31dbdd31": "scikit-learn digits (8x8, not MNIST)"}
# Most bytes of pixels per byte of the archive, after the first FREE_PIXELS. MNIST as PNGs has 3.
MAX_PIXEL_RATIO = 500
FREE_PIXELS = 128 * 2**20
MAX_LISTING_BYTES = 2**28  # of a dataset.json
FEWEST = 4
CHUNK = 2**20


def read(
    folder: str | Path, settings: Unpack, scratch: str | Path | None = None
) -> tuple[Dataset, list[str]]:
    """Read the data set in `folder`, and describe it in lines for the user.

    The folder has IDX files, or images, or one zip or tar with either. `layout.arrange` finds
    split and classes. Without a split, a share `settings.heldout` of the images of each class is
    held out; `settings.seed` chooses them. The arrays have three channels if an image has colour,
    else one. The images are mapped from unnamed files in the folder `scratch` (default: the
    system's folder for temporary files).

    Raises UserError that names the wrong file, SpoolError if the unnamed files cannot be written.
    """
    folder, scratch = Path(folder), Path(scratch or tempfile.gettempdir())
    if not folder.is_dir():
        raise UserError(f"{folder}/: not found; `make run` gets MNIST, or put your images there")
    with contextlib.ExitStack() as stack:
        source = find(folder, scratch, stack, settings)
        if source.idx:
            data, notes = _read_idx(source, settings, scratch)
        else:
            data, notes = _read_images(source, settings, scratch)
    return data, [_described(data), *notes, *_skipped(source, data.labels is None, settings)]


@dataclass(frozen=True)
class Images:
    """All images of a folder or archive, without a split, in the order of their names."""

    pixels: Tensor  # (N, C, H, W) uint8, one channel if none has colour
    names: list[str]  # paths in the folder
    labels: list[int] | None  # the class of each; None: no classes
    class_names: list[str]
    notes: list[str]


def read_images(path: str | Path, settings: Unpack) -> Images:
    """Read every image of a folder or archive. `settings.split` is ignored.

    Raises UserError, as `read` does, and for IDX files.
    """
    path, scratch = Path(path), Path(tempfile.gettempdir())
    if not path.exists():
        raise UserError(f"{path}: not found")
    settings = settings.model_copy(update={"split": "random"})
    with contextlib.ExitStack() as stack:
        source = find(path, scratch, stack, settings)
        if source.idx:
            raise UserError(f"{source.where}: IDX files; expected PNG or JPEG images")
        layout = _arranged(source, settings)
        files = {member.name: member for member in source.images}
        chosen = [files[name] for name in layout.names]
        everything = torch.zeros(len(chosen), dtype=torch.bool)
        pixels, converted = _decoded(source, chosen, everything, settings, scratch)
        notes = [*layout.notes, *_counted(converted)]
        notes += _skipped(source, layout.labels is None, settings)
        return Images(pixels.part(0), layout.names, layout.labels, layout.class_names, notes)


def look(folder: Path, settings: Unpack, scratch: Path) -> None:
    """Raises UserError unless the files in `folder` make up a data set. Decodes no image."""
    with contextlib.ExitStack() as stack:
        source = find(folder, scratch, stack, settings)
        if source.idx:
            idx.choose(source.idx, source.where)
        else:
            _arranged(source, settings)


def _skipped(source: Source, unlabelled: bool, settings: Unpack) -> list[str]:
    """A line about the files that were not read, if there are any."""
    if not source.skipped:
        return []
    shown = ", ".join(source.skipped[:3]) + (" ..." if len(source.skipped) > 3 else "")
    line = f"skipped {len(source.skipped):,} other files ({shown})"
    tables = [name for name in source.skipped if name.lower().endswith(".csv")]
    if tables and unlabelled and settings.labels != "none":
        line += f". Classes come from folders or dataset.json, not from {tables[0]}"
    return [line]


def _described(data: Dataset) -> str:
    """The number of images, their size and their classes."""
    names = data.names
    shown = " ".join(names[:20]) + (" ..." if len(names) > 20 else "")
    classes = f"{len(names)} classes: {shown}" if names else "no classes"
    return (
        f"{data.name}: {len(data.images):,} training and {len(data.heldout_images):,} held-out "
        f"images of {data.image_size}x{data.image_size}, "
        f"{'RGB' if data.channels == 3 else 'grey'}, {classes}"
        f"{'' if data.fingerprint in KNOWN else '. This project does not know this data set'}"
    )


# --- IDX files -----------------------------------------------------------------------------------


def _read_idx(source: Source, settings: Unpack, scratch: Path) -> tuple[Dataset, list[str]]:
    """Read the four IDX files. Raises UserError if they do not fit together."""
    name, files = idx.choose(source.idx, source.where)
    axes = (3, 1, 3, 1)
    arrays = [idx.read(f, n, scratch, settings) for f, n in zip(files, axes, strict=True)]
    images, labels, heldout_images, heldout_labels = arrays
    notes = []
    emnist = name.lower().startswith("emnist")
    if settings.transpose == "always" or (settings.transpose == "auto" and emnist):
        images = idx.transposed(images, scratch)
        heldout_images = idx.transposed(heldout_images, scratch)
        notes.append("exchanged rows and columns (unpack.transpose); EMNIST is upright then")
    images = _idx_images(source, images, labels, settings, scratch)
    heldout_images = _idx_images(source, heldout_images, heldout_labels, settings, scratch)
    if images.shape[1:] != heldout_images.shape[1:]:
        sizes = [f"{part.shape[3]}x{part.shape[2]}" for part in (images, heldout_images)]
        raise UserError(
            f"{source.where}: training images are {sizes[0]}, test images {sizes[1]}; "
            f"fetch the files again"
        )
    numbers, heldout_numbers, names = idx.numbered(labels, heldout_labels, source.where)
    known = settings.labels != "none"
    mark = fingerprint(
        (len(images) + len(heldout_images), *images.shape[1:]),
        chain(_batches(images), _batches(heldout_images)),
        torch.cat([numbers, heldout_numbers]) if known else None,
    )
    name = KNOWN.get(mark, name or "unknown IDX files")
    if not known:
        return Dataset(name, mark, images, None, heldout_images, None), notes
    parts = (images, numbers, heldout_images, heldout_numbers)
    return Dataset(name, mark, *parts, tuple(names)), notes


def _idx_images(
    source: Source, images: Tensor, labels: Tensor, settings: Unpack, scratch: Path
) -> Tensor:
    """Images (N, H, W) as (N, 1, S, S), resized if `settings` say so. Raises UserError."""
    if len(images) != len(labels):
        raise UserError(
            f"{source.where}: {len(images)} images but {len(labels)} labels; fetch the files again"
        )
    if settings.size is not None and images.shape[1:] != (settings.size, settings.size):
        size = f"{settings.size}x{settings.size}"
        what = f"{source.where}: {len(images):,} images of {size} take"
        check_bytes(len(images) * settings.size**2, what, settings)
        spool = Spool(scratch)
        for image in tqdm(images, desc="resize", unit="image"):
            small = resized(Image.fromarray(image.numpy()), settings.size)
            spool.add(np.array(small).tobytes())
        images = spool.tensor((len(images), settings.size, settings.size))
    _check_square(source.where, *images.shape[1:])
    return images[:, None]


def _batches(images: Tensor) -> Iterator[Tensor]:
    """Yield images (N, C, H, W) in batches of about CHUNK bytes."""
    yield from images.split(max(1, CHUNK // images[0].numel()))


# --- images --------------------------------------------------------------------------------------


def _read_images(source: Source, settings: Unpack, scratch: Path) -> tuple[Dataset, list[str]]:
    """Read images in the order of their names."""
    files = {member.name: member for member in source.images}
    layout = _arranged(source, settings)
    labels = None if layout.labels is None else torch.tensor(layout.labels)
    if layout.held is not None:
        held = torch.tensor(layout.held)
        if (~held).sum() < 2 or held.sum() < 2:
            raise UserError(f"{source.where}: expected 2 or more images in each part; add some")
    else:
        try:
            held = split(len(layout.names), labels, settings.heldout, settings.seed)
        except UserError as error:
            raise UserError(f"{source.where}: {error}") from None
    chosen = [files[name] for name in layout.names]
    pixels, converted = _decoded(source, chosen, held, settings, scratch)
    parts = pixels.part(0), pixels.part(1)
    mark = fingerprint((len(held), *parts[0].shape[1:]), _in_order(parts, held), labels)
    name = KNOWN.get(mark, source.name)
    notes = _notes(layout, settings, converted)
    if labels is None:
        return Dataset(name, mark, parts[0], None, parts[1], None), notes
    names = tuple(layout.class_names)
    return Dataset(name, mark, parts[0], labels[~held], parts[1], labels[held], names), notes


def _arranged(source: Source, settings: Unpack) -> Layout:
    """Split and classes. Raises UserError if there are too few images, or their names give none."""
    if len(source.images) < FEWEST:
        raise UserError(
            f"{source.where}: expected at least {FEWEST} images, found {len(source.images)}; "
            f"add some"
        )
    names = [member.name for member in source.images]
    try:
        listed = _listed(source) if settings.labels == "auto" else None
        return arrange(names, settings.labels, settings.split, listed)
    except UserError as error:
        raise UserError(f"{source.where}: {error}") from None


def _notes(layout: Layout, settings: Unpack, converted: Counter[str]) -> list[str]:
    notes = list(layout.notes)
    if layout.held is None:
        notes.append(f"unpack.heldout: a share of {settings.heldout:g} is held out at random")
    return [*notes, *_counted(converted)]


def _counted(converted: Counter[str]) -> list[str]:
    """A line that counts the conversions, if there are any."""
    counts = ", ".join(f"{count:,} {what}" for what, count in converted.most_common())
    return [f"converted: {counts}"] if converted else []


def _listed(source: Source) -> dict[str, int] | None:
    """Labels by name from dataset.json of StyleGAN's layout; None if there are none.

    Raises UserError, without the file's folder, if it is damaged.
    """
    listed: dict[str, int] = {}
    try:
        for listing in source.listings:
            values = json.loads(listing.read(MAX_LISTING_BYTES))
            if isinstance(values, dict) and values.get("labels") is not None:
                base = PurePosixPath(listing.name).parent
                listed |= {str(base / name): label for name, label in values["labels"]}
        if not all(type(label) is int and label >= 0 for label in listed.values()):
            raise ValueError("labels that are not whole numbers")
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"dataset.json cannot be read ({error}); remove it, or mend it") from None
    return listed or None


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

    def part(self, number: int) -> Tensor:
        """The images of part 0 (kept) or 1 (held out): (N, C, H, W) uint8. N must not be 0."""
        shape = (self.counts[number], self.channels, *self.size)
        return self.spools[number].tensor(shape)


def _decoded(
    source: Source, files: list[Member], held: Tensor, settings: Unpack, scratch: Path
) -> tuple[_Pixels, Counter[str]]:
    """The pixels of images, kept and held out, and counts of what was converted."""
    pixels, converted = _Pixels(scratch), Counter[str]()
    side: int | None = None
    progress = tqdm(files, desc="unpack", unit="image")
    for file, part in zip(progress, held.int().tolist(), strict=True):
        array, done = decode(file.read(), file.label, settings.size, settings.background)
        converted.update(done)
        if side is None:
            _check_square(source.where, *array.shape[:2])
            side = len(array)
            _check_pixels(source, len(files), side, settings)
        if array.shape[:2] != (side, side):
            raise UserError(
                f"{file.label} is {array.shape[1]}x{array.shape[0]}, others are {side}x{side}; "
                f"unpack.size makes all images the same size"
            )
        pixels.add(_channels_first(array), part)
    return pixels, converted


def _channels_first(array: np.ndarray) -> Tensor:
    """(H, W) or (H, W, 3) -> (C, H, W)"""
    image = torch.from_numpy(array)
    return image[None] if image.ndim == 2 else image.permute(2, 0, 1)


def _check_pixels(source: Source, count: int, side: int, settings: Unpack) -> None:
    """Raises UserError if the images take more bytes than are allowed, or plausible."""
    pixels = count * side * side * 3
    what = f"{source.where}: {count:,} images of {side}x{side}"
    check_bytes(pixels, f"{what} (unpack.size makes them smaller) take as RGB pixels", settings)
    limit = FREE_PIXELS + MAX_PIXEL_RATIO * source.packed
    if pixels > limit:
        raise UserError(
            f"{what} take more than the {limit} bytes of pixels that an archive of this size may "
            f"hold; unpack.size makes them smaller"
        )


def _check_square(where: str, height: int, width: int) -> None:
    """Raises UserError unless images of this size are square, and not too large."""
    check_side(f"{where}: an image", width, height)
    if height != width:
        raise UserError(
            f"{where}: images are {width}x{height}; expected square images; "
            f"unpack.size: {min(height, width)} takes the middle square of each"
        )
