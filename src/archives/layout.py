"""Splits and classes, from the names of the images in an archive."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..common.errors import UserError
from ..params import Labels, Split

PARTS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
MAX_CLASSES = 10_000
BUCKET = 1000  # images in a folder of StyleGAN's layout


@dataclass(frozen=True)
class Layout:
    """The images to use, in the order of their names."""

    names: list[str]
    held: list[bool] | None  # whether each is held out; None: the archive does not say
    labels: list[int] | None  # the class of each; None: no classes
    class_names: list[str]
    notes: list[str]  # what was assumed, for the user


def arrange(
    names: list[str],
    labels: Labels = "auto",
    split: Split = "auto",
    listed: Mapping[str, int] | None = None,
) -> Layout:
    """Choose split and classes. `names` are the paths of the images, with "/".

    - Folders train/ and test/ (or val/) that hold all images are the split. With both test/ and
      val/, the images in val/ are left out. `split` "random" ignores this.
    - The topmost folders that differ are the classes, as for torchvision's ImageFolder, sorted by
      name, and numbers by value. `labels` "none" ignores them.
    - With `labels` "auto", `listed` has the class of each image, and goes before folders (from
      dataset.json of StyleGAN's layout). Without it, that layout's buckets are no classes.

    Raises UserError, starting with a name, if only some images are in such folders.
    """
    names = sorted(names)
    notes: list[str] = []
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    depth = _split_depth(names, folders, split)
    held = None
    if depth is not None:
        parts = [PARTS[folder[depth].lower()] for folder in folders]
        folders = [folder[:depth] + folder[depth + 1 :] for folder in folders]
        if split == "auto":
            names, folders, held, note = _own_split(names, folders, parts)
            notes += [note] if note else []
    numbers, class_names, note = _classes(names, folders, labels, listed)
    notes += [note] if note else []
    if held is not None and numbers is not None:
        _check_classes(numbers, held, class_names)
    return Layout(names, held, numbers, class_names, notes)


def _split_depth(names: list[str], folders: list[tuple[str, ...]], split: Split) -> int | None:
    """At which depth the folders train/, test/ and val/ are; None without them.

    A depth with train/ and another goes before one with folders of a single such name.
    """
    single = None
    for depth in range(max(map(len, folders), default=0)):
        words = [PARTS.get(folder[depth].lower()) if folder[depth:] else None for folder in folders]
        both = "train" in words and bool({"test", "val"} & set(words))
        if None not in words:
            if both:
                return depth
            single = depth if single is None else single
        elif both and split == "auto":
            stray = names[words.index(None)]
            raise UserError(
                f"{stray!r} lies outside train/, test/ and val/, but other images are in them; "
                f"move it, or set unpack.split to random"
            )
    return single


def _own_split(
    names: list[str], folders: list[tuple[str, ...]], parts: list[str]
) -> tuple[list[str], list[tuple[str, ...]], list[bool] | None, str]:
    """Names and folders of the images to use, which of them are held out, and a note."""
    counts = Counter(parts)
    others = [part for part in ("test", "val") if counts[part]]
    if not counts["train"] or not others:
        return names, folders, None, ""
    used = [i for i, part in enumerate(parts) if part in ("train", others[0])]
    note = f"the archive's own split: {others[0]}/ is held out"
    if len(others) == 2:
        note += f", and the {counts['val']:,} images in val/ are left out"
    held = [parts[i] == others[0] for i in used]
    return [names[i] for i in used], [folders[i] for i in used], held, note


def _classes(
    names: list[str],
    folders: list[tuple[str, ...]],
    labels: Labels,
    listed: Mapping[str, int] | None,
) -> tuple[list[int] | None, list[str], str]:
    """The class of each image, the names of the classes, and a note."""
    if labels == "none":
        return None, [], "no classes, since unpack.labels is none"
    if labels == "auto" and listed is not None:
        missing = [name for name in names if name not in listed]
        if missing:
            raise UserError(
                f"{missing[0]!r} has no label in dataset.json; add it, "
                f"or set unpack.labels to folders or none"
            )
        chosen = [str(listed[name]) for name in names]
        return *_numbered(chosen), "classes from dataset.json"
    if labels == "auto" and _are_buckets(names):
        note = (
            f"folders such as {PurePosixPath(names[0]).parent.name}/ hold {BUCKET:,} images each "
            f"(StyleGAN's layout), and are no classes; unpack.labels: folders makes them classes"
        )
        return None, [], note
    while all(folders) and len({folder[0] for folder in folders}) == 1:
        folders = [folder[1:] for folder in folders]
    if not any(folders):
        return None, [], ""
    if not all(folders):
        stray = names[folders.index(())]
        raise UserError(
            f"{stray!r} lies outside the class folders, but other images are in them; "
            f"move it, or set unpack.labels to none"
        )
    return *_numbered([folder[0] for folder in folders]), ""


def _are_buckets(names: list[str]) -> bool:
    """Whether these are the names of StyleGAN's dataset_tool: 00012/img00012345.png."""
    pattern = re.compile(r"(?:.*/)?(\d{5})/img(\d{8})\.[a-z]+", re.ASCII)
    matches = [pattern.fullmatch(name) for name in names]
    return all(match and int(match[1]) == int(match[2]) // BUCKET for match in matches)


def _numbered(chosen: list[str]) -> tuple[list[int], list[str]]:
    """The class of each image as a number, and the names of the classes in order."""
    names = sorted(set(chosen), key=_order)
    if len(names) > MAX_CLASSES:
        raise UserError(
            f"{len(names)} class folders, more than {MAX_CLASSES}; set unpack.labels to none"
        )
    number = {name: i for i, name in enumerate(names)}
    return [number[name] for name in chosen], names


def _order(name: str) -> tuple:
    """Sort numbers by value and before words, and words by name."""
    if name.isascii() and name.isdigit():
        digits = name.lstrip("0")
        return 0, len(digits), digits, name
    return 1, 0, "", name


def _check_classes(labels: list[int], held: list[bool], names: list[str]) -> None:
    """Raises UserError unless each class has images to train on."""
    trained = {label for label, is_held in zip(labels, held, strict=True) if not is_held}
    for i, name in enumerate(names):
        if i not in trained:
            raise UserError(
                f"class {name!r} has held-out images, but none in train/; add some, "
                f"or set unpack.split to random"
            )
