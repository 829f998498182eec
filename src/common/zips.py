"""Zip archives from elsewhere."""

from __future__ import annotations

import zipfile

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
OTHERS = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "lzma"}


def check_methods(archive: zipfile.ZipFile) -> None:
    """Raises ValueError if a member is neither stored nor deflated.

    Python's zipfile unpacks other methods without a limit: a kilobyte could fill the memory.
    """
    for member in archive.infolist():
        if member.compress_type not in METHODS:
            method = OTHERS.get(member.compress_type, f"method {member.compress_type}")
            raise ValueError(
                f"member {member.filename!r} is compressed with {method}; expected deflate or none"
            )
