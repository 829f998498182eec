"""Find the files of a data set: in a folder, or in the one zip or tar in it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..common.errors import UserError
from ..params import Unpack
from . import idx, members
from .members import Member

IMAGES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif")
# Skipped, with hidden files and folders.
SKIPPED_NAMES = {"thumbs.db", "desktop.ini", "readme", "license"}
SKIPPED_SUFFIXES = {".csv", ".json", ".md", ".txt"}
EXPECTED = "expected the four files of MNIST, or PNG or JPEG images in folders, a zip or a tar"


@dataclass
class Source:
    """The files of a data set, by kind."""

    where: str  # the folder or archive, for messages
    name: str  # of the data set
    packed: int  # bytes of all files there
    images: list[Member] = field(default_factory=list)
    idx: list[Member] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    archives: list[Member] = field(default_factory=list)
    listings: list[Member] = field(default_factory=list)  # dataset.json


def find(path: Path, scratch: Path, stack: contextlib.ExitStack, settings: Unpack) -> Source:
    """The files of the data set in a folder or an archive. `stack` closes the archive.

    Raises UserError if there is none or more than one.
    """
    if path.is_file():
        files, where = [members.of_file(path, path.name)], str(path)
    else:
        files, where = members.of_folder(path, settings), f"{path}/"
    source = _sorted_out(files, where, path.resolve().name)
    source.name = _top(source.images) or source.name
    nested = 0
    while source.archives:
        others = source.archives[1:3] + source.images[:1] + source.idx[:1]
        archive = source.archives[0]
        skipped = source.skipped + [member.name for member in source.listings]
        if others:
            listing = ", ".join(member.name for member in (archive, *others))
            raise UserError(
                f"{source.where}: {EXPECTED}, found {listing}; leave one of them there, or unpack "
                f"them into folders"
            )
        if nested > 1:
            raise UserError(f"{archive.label}: an archive in an archive in an archive; unpack it")
        if nested == 0:
            file = archive.open()
        else:
            chunks = archive.chunks(members.most_bytes(settings) + 1)
            file = members.spooled(chunks, scratch, archive.label, settings)
        stack.enter_context(file)
        name = PurePosixPath(archive.name).name
        for suffix in members.SUFFIXES:
            if name.lower().endswith(suffix):
                name = name[: -len(suffix)]
                break
        inside = members.of_archive(file, archive.name, archive.label, scratch, settings)
        source = _sorted_out(inside, archive.label, name)
        source.packed = archive.packed
        source.skipped = skipped + source.skipped
        nested += 1
    if source.idx and source.images:
        raise UserError(
            f"{source.where}: both IDX files and images such as {source.images[0].name!r}; "
            f"move one kind elsewhere"
        )
    if not source.images and not source.idx:
        listing = ", ".join(source.skipped[:5]) or "nothing"
        raise UserError(f"{source.where}: {EXPECTED}, found {listing}")
    return source


def _top(found: list[Member]) -> str:
    """The folder that all files are in; "" if there is none."""
    tops = {PurePosixPath(member.name).parts[0] for member in found if "/" in member.name}
    return tops.pop() if len(tops) == 1 and all("/" in member.name for member in found) else ""


def _sorted_out(found: list[Member], where: str, name: str) -> Source:
    """The files by kind. Raises UserError for a file of none."""
    source = Source(where, name, sum(member.packed for member in found))
    for member in found:
        path = PurePosixPath(member.name)
        lower = path.name.lower()
        if any(part.startswith(".") for part in path.parts) or "__MACOSX" in path.parts:
            source.skipped.append(member.name)
        elif lower == "dataset.json":
            source.listings.append(member)
        elif path.suffix.lower() in SKIPPED_SUFFIXES or lower in SKIPPED_NAMES:
            source.skipped.append(member.name)
        elif idx.is_idx(path.name):
            source.idx.append(member)
        elif lower.endswith(IMAGES):
            source.images.append(member)
        elif members.is_archive(lower):
            source.archives.append(member)
        else:
            raise UserError(
                f"{member.label} is neither an image nor an archive; {EXPECTED}; move it elsewhere"
            )
    return source
