"""The files in a folder, zip or tar, listed and checked before any is read."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, cast

from ..common.errors import UserError
from ..common.mapped import Spool, SpoolError
from ..common.zips import check_methods
from ..params import Unpack

MAX_IMAGE_BYTES = 16 * 2**20
MAX_TAR_HEADER = 2**20  # bytes of a long name or of an extended header
# Most unpacked bytes per packed byte, after the first FREE_BYTES. MNIST's IDX files have 5.
MAX_RATIO = 200
FREE_BYTES = 2**20
CHUNK = 2**20
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
AGAIN = "make or fetch the archive again"


def most_bytes(settings: Unpack) -> int:
    return int(settings.max_gib * 2**30)


def check_bytes(total: int, what: str, settings: Unpack) -> None:
    """Raises UserError, starting with `what`, for more than settings.max_gib."""
    if total > most_bytes(settings):
        raise UserError(
            f"{what} more than {settings.max_gib:g} GiB; use less, or raise unpack.max_gib"
        )


def check_files(count: int, where: str, settings: Unpack) -> None:
    """Raises UserError, starting with `where`, for more than settings.max_files."""
    if count > settings.max_files:
        raise UserError(
            f"{where}: more than {settings.max_files:,} files; use fewer, or raise unpack.max_files"
        )


@dataclass(frozen=True)
class Member:
    """A file in a folder or an archive."""

    name: str  # its path there, with "/"
    label: str  # what messages call it
    packed: int  # bytes that it takes there
    size: int  # bytes that it unpacks to, as the archive says
    open: Callable[[], IO[bytes]]

    def read(self, limit: int = MAX_IMAGE_BYTES) -> bytes:
        """The whole file, of at most `limit` bytes. Raises UserError if it cannot be read."""
        if self.size > limit:
            raise UserError(
                f"{self.label} has {self.size} bytes; at most {limit} are accepted; make it smaller"
            )
        return b"".join(self.chunks(limit))

    def chunks(self, limit: int) -> Iterator[bytes]:
        """Yield at most `limit` bytes of the file. Raises UserError if it cannot be read."""
        try:
            with self.open() as file:
                yield from inflated(file, limit, self.label, self.packed)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # zipfile, tarfile and zlib raise many types of errors
            raise UserError(f"{self.label}: cannot be read ({error}); {AGAIN}") from None


def inflated(
    file: IO[bytes] | io.BufferedIOBase, limit: int, label: str, packed: int
) -> Iterator[bytes]:
    """Yield up to `limit` bytes of a file in chunks. The file has `packed` bytes in its archive.

    Raises UserError, starting with `label`, after FREE_BYTES + MAX_RATIO * `packed` bytes.
    """
    total = 0
    while chunk := file.read(min(CHUNK, limit - total)):
        total += len(chunk)
        if total > FREE_BYTES + MAX_RATIO * packed:
            raise UserError(
                f"{label} unpacks to more than {MAX_RATIO} times its {packed} bytes; {AGAIN}"
            )
        yield chunk


def spooled(chunks: Iterable[bytes], scratch: Path, label: str, settings: Unpack) -> IO[bytes]:
    """An unnamed file in `scratch` with these bytes, at its beginning.

    Raises UserError, starting with `label`, for more than settings.max_gib.
    """
    spool, total = Spool(scratch), 0
    for chunk in chunks:
        total += len(chunk)
        check_bytes(total, f"{label}: unpacks to", settings)
        spool.add(chunk)
    spool.file.seek(0)
    return spool.file


def is_archive(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def of_folder(folder: Path, settings: Unpack) -> list[Member]:
    """The files below a folder, sorted by name. Links are followed: DVC may keep files as links.

    Raises UserError for a folder that cannot be read, a broken link, pipe or device, and for too
    many files.
    """

    def unreadable(error: OSError) -> None:
        raise UserError(f"{error.filename}/: cannot be read ({error.strerror}); move it elsewhere")

    members: list[Member] = []
    for parent, folders, files in os.walk(folder, onerror=unreadable):
        for path in (Path(parent, name) for name in folders):
            if path.is_symlink():
                raise UserError(f"{path}: a link to a folder; move the folder itself there")
        for path in (Path(parent, name) for name in files):
            if not path.is_file():
                raise UserError(f"{path}: a broken link, pipe or device; move it elsewhere")
            _check_encoding(str(path))
            members.append(of_file(path, path.relative_to(folder).as_posix()))
            check_files(len(members), f"{folder}/", settings)
    return sorted(members, key=lambda member: member.name)


def of_file(path: Path, name: str) -> Member:
    size = path.stat().st_size
    return Member(name, str(path), size, size, lambda: path.open("rb"))


def of_archive(
    file: IO[bytes], name: str, label: str, scratch: Path, settings: Unpack
) -> list[Member]:
    """The files of a zip, tar or gzipped tar, sorted by name. They read from `file`.

    The suffix of `name` says which; `label` names the archive in messages. A gzipped tar is
    unpacked into the folder `scratch`.

    Raises UserError for a damaged archive, a link, a path outside the archive, a repeated name, and
    too many files or bytes; SpoolError if `scratch` cannot be written.
    """
    kind = "zip" if name.lower().endswith(".zip") else "tar"
    try:
        found = _of_zip(file, label) if kind == "zip" else _of_tar(file, label, scratch, settings)
        members: dict[str, Member] = {}
        total = 0
        for member in found:
            _check_path(member.name, label)
            if member.name in members:
                raise UserError(f"{label}: member {member.name!r} appears twice; {AGAIN}")
            members[member.name] = member
            total += member.size
            check_bytes(total, f"{label}: unpacks to", settings)
            check_files(len(members), label, settings)
    except (UserError, MemoryError, SpoolError):
        raise
    except Exception as error:  # zipfile, tarfile and zlib raise many types of errors
        raise UserError(f"{label}: cannot be read as a {kind} ({error}); {AGAIN}") from None
    return [members[name] for name in sorted(members)]


def _of_zip(file: IO[bytes], label: str) -> Iterator[Member]:
    archive = zipfile.ZipFile(file)
    check_methods(archive)
    for info in archive.infolist():
        name = _zip_name(info)
        if name.endswith("/"):
            continue
        name = str(PurePosixPath(name))
        if stat.S_ISLNK(info.external_attr >> 16):
            raise UserError(f"{label}: member {name!r} is a link; {AGAIN} without links")
        yield Member(
            name,
            f"{label}: member {name!r}",
            info.compress_size,
            info.file_size,
            partial(archive.open, info),
        )


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The name of a member, as its author saw it."""
    name = info.filename.replace("\\", "/")  # as some programs write it on Windows
    if not info.flag_bits & 0x800:  # not marked as UTF-8, which macOS writes without the mark
        with contextlib.suppress(UnicodeError):
            return name.encode("cp437").decode("utf-8")
    return name


def _of_tar(file: IO[bytes], label: str, scratch: Path, settings: Unpack) -> Iterator[Member]:
    if _head(file, 2) == b"\x1f\x8b":
        file = _unzipped(file, label, scratch, settings)
    archive = tarfile.TarFile(fileobj=cast(IO[bytes], _SmallReads(file)))
    for info in archive:
        if info.isdir():
            continue
        if not info.isfile() or info.issparse():
            raise UserError(
                f"{label}: member {info.name!r} is a link, a device or sparse; {AGAIN} without them"
            )
        yield Member(
            str(PurePosixPath(info.name)),
            f"{label}: member {info.name!r}",
            info.size,
            info.size,
            partial(_extracted, archive, info),
        )
    # tarfile takes a damaged header, and the end of the file, for the end of the archive.
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise ValueError("it is damaged, or ends early")


def _extracted(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(info)
    assert file is not None  # as for a folder
    return file


def _head(file: IO[bytes], length: int) -> bytes:
    """The first bytes of a file. Afterwards it is at its beginning."""
    file.seek(0)
    head = file.read(length)
    file.seek(0)
    return head


def _unzipped(file: IO[bytes], label: str, scratch: Path, settings: Unpack) -> IO[bytes]:
    """An unnamed file in `scratch` with what the gzipped `file` holds."""
    packed = file.seek(0, 2)
    file.seek(0)
    chunks = inflated(gzip.GzipFile(fileobj=file), most_bytes(settings) + 1, label, packed)
    return spooled(chunks, scratch, label, settings)


class _SmallReads:
    """A file that refuses to read much at once: tarfile reads a whole header into memory."""

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_TAR_HEADER:
            raise ValueError(f"a header of {size} bytes")
        return self.file.read(size)


def _check_path(name: str, label: str) -> None:
    """Raises UserError if the member lies outside the archive, or its name is not UTF-8."""
    climbs = ".." in PurePosixPath(name).parts
    if name.startswith("/") or climbs or PureWindowsPath(name).drive:
        raise UserError(
            f"{label}: member {name!r} points outside the archive; "
            f"make the archive again with plain names"
        )
    _check_encoding(name)


def _check_encoding(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"{name!r}: this name is not UTF-8; rename it") from None
