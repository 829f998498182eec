"""`make submission`: check generated_images/ against what a course asks for, and zip it.

Asked for are 10,000 RGB PNGs of one size, named 00001.png to 10000.png, in one folder without others, and an Inception FID
below 30. Prints the checklist; exits with 1 if a point does not hold. What was not measured stays open.
"""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

from PIL import Image

from src.files import replacing

FOLDER, ARCHIVE, METRICS = Path("generated_images"), Path("submission/generated_images.zip"), Path("metrics/fid.json")
COUNT, FID = 10_000, 30.0


def checks(folder: Path, count: int) -> list[tuple[str, str]]:
    """(what is asked for, what is wrong with it or nothing), of every point that the files themselves decide."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [entry for entry in entries if entry.is_file() and not entry.is_symlink()]
    names = {entry.name for entry in entries}
    expected = {f"{number:05d}.png" for number in range(1, count + 1)}
    odd = sorted(names ^ expected)
    kinds: dict[tuple, str] = {}  # (format, mode, size): the first file of that kind
    broken = ""
    for file in files:
        try:
            with Image.open(file) as image:
                image.load()
                kinds.setdefault((image.format, image.mode, image.size), file.name)
        except OSError as error:
            broken = broken or f"{file.name}: {error}"
    modes = sorted(name for (form, mode, _), name in kinds.items() if (form, mode) != ("PNG", "RGB"))
    sizes = {size: name for (_, _, size), name in kinds.items()}
    return [
        (f"{count:,} images", "" if len(files) == count else f"found {len(files):,} in {folder}/"),
        (f"named 00001.png to {count:05d}.png", "" if not odd else f"{odd[0]} is {'missing' if odd[0] in expected else 'odd'}"),
        ("no subdirectories or links", next((f"{e.name} is one" for e in entries if e.is_dir() or e.is_symlink()), "")),
        ("all of them whole RGB PNGs", broken or next((f"{name} is not" for name in modes), "" if kinds else "there are none")),
        ("all of one size", "" if len(sizes) == 1 else f"found {', '.join(f'{w}x{h}' for w, h in sorted(sizes)) or 'none'}"),
    ]


def fid(metrics: Path) -> tuple[float | None, str]:
    """The FID that was measured of these images, or None, and where it is from or how to get it."""
    if metrics.exists():
        value = json.loads(metrics.read_text(encoding="utf-8")).get("fid")
        if value is not None:
            return value, f"{metrics}"
    return None, "not measured; `dvc exp run -S fid.inception=always fid` does it, where Inception's weights can be had"


def pack(folder: Path, archive: Path, count: int) -> str:
    """Zip the images, at the top of the archive, the same bytes each time; what is wrong when read back, or nothing."""
    with replacing(archive) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as zipped:
        for number in range(1, count + 1):
            member = zipfile.ZipInfo(f"{number:05d}.png")  # as of 1980: no clock in it
            member.external_attr = 0o644 << 16
            zipped.writestr(member, (folder / member.filename).read_bytes())
    with zipfile.ZipFile(archive) as zipped:
        bad, members = zipped.testzip(), len(zipped.namelist())
    return f"{bad} is damaged" if bad else "" if members == count else f"found {members:,} members"


def main(count: int = COUNT) -> int:
    points = checks(FOLDER, count)
    if any(wrong for _, wrong in points):
        points.append((f"{ARCHIVE}, a zip of them", "not made: first the points above; `dvc repro sample` draws the images"))
    else:
        points.append((f"{ARCHIVE}, a zip of them", pack(FOLDER, ARCHIVE, count)))
    for what, wrong in points:
        print(f"[{' ' if wrong else 'x'}] {what}{f': {wrong}' if wrong else ''}")
    value, source = fid(METRICS)
    below = value is not None and value < FID
    print(f"[{'x' if below else ' '}] FID below {FID:g}: {source if value is None else f'{value:.2f}, of {source}'}")
    return 1 if any(wrong for _, wrong in points) or (value is not None and not below) else 0


if __name__ == "__main__":
    sys.exit(main())
