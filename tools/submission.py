"""`make submission`: check generated_images/ against what a course asks for, and zip it.

Asked for are 10,000 RGB PNGs of one size, named 00001.png to 10000.png, in one folder without others, and an Inception FID
below 30. Prints the checklist; exits with 1 if a point does not hold. What was not measured stays open.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

from PIL import Image

from src import images, provenance
from src.common.errors import UserError
from src.common.files import replacing

FOLDER, ARCHIVE, METRICS = Path("generated_images"), Path("submission/generated_images.zip"), Path("metrics/fid.json")
COUNT, FID = 10_000, 30.0


def checks(folder: Path, count: int) -> list[tuple[str, str]]:
    """(what is asked for, what is wrong with it or nothing), of every point that the files themselves decide."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [entry for entry in entries if entry.is_file() and not entry.is_symlink()]
    names = {entry.name for entry in entries}
    expected = {images.file_name(number) for number in range(1, count + 1)}
    odd = sorted(names ^ expected)
    kinds: dict[tuple, str] = {}  # (mode, size): the first file of that kind
    broken = ""
    for file in files:
        try:
            with Image.open(file, formats=["PNG"]) as image:
                image.load()
                kinds.setdefault((image.mode, image.size), file.name)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            broken = broken or f"{file.name}: {error}"
    modes = sorted(name for (mode, _), name in kinds.items() if mode != "RGB")
    sizes = {size for _, size in kinds}
    return [
        (f"{count:,} images", "" if len(files) == count else f"found {len(files):,} in {folder}/"),
        (f"named 00001.png to {count:05d}.png", "" if not odd else f"{odd[0]} is {'missing' if odd[0] in expected else 'odd'}"),
        ("no subdirectories or links", next((f"{e.name} is one" for e in entries if e.is_dir() or e.is_symlink()), "")),
        ("all of them whole RGB PNGs", broken or next((f"{name} is not" for name in modes), "" if kinds else "there are none")),
        ("all of one size", "" if len(sizes) == 1 else f"found {', '.join(f'{w}x{h}' for w, h in sorted(sizes)) or 'none'}"),
    ]


def fid(metrics: Path, folder: Path, count: int) -> tuple[float | None, str]:
    """The FID that was measured of these very images, or None, and where it is from or how to get it."""
    try:
        found = provenance.read(metrics, ("fid", "pixels")) if metrics.exists() else {"fid": None}
    except UserError as error:
        return None, str(error)
    if found["fid"] is None:
        return None, "not measured; `dvc exp run -S fid.inception=always fid` does it, where Inception's weights can be had"
    digest = images.PixelDigest()
    for batch in images.stream(folder, count):
        digest.add(batch)
    if digest.hex() != found["pixels"]:
        return None, f"{metrics} is of other images; `dvc repro fid` measures these"
    return found["fid"], str(metrics)


def pack(folder: Path, archive: Path, count: int) -> None:
    """Zip the images, at the top of the archive, the same bytes each time, and see that they can be read back."""
    with replacing(archive) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as zipped:
            for number in range(1, count + 1):
                member = zipfile.ZipInfo(images.file_name(number))  # as of 1980: no clock in it
                member.external_attr = 0o644 << 16
                zipped.writestr(member, (folder / member.filename).read_bytes())
        with zipfile.ZipFile(temporary) as zipped:
            if zipped.testzip() or len(zipped.namelist()) != count:
                raise OSError(f"{archive}: what was written cannot be read back")


def main(count: int = COUNT) -> int:
    points = checks(FOLDER, count)
    ARCHIVE.unlink(missing_ok=True)  # one of other images must not pass for one of these
    if any(wrong for _, wrong in points):
        points.append((f"{ARCHIVE}, a zip of them", "not made: first the points above; `make samples` draws the images"))
    else:
        pack(FOLDER, ARCHIVE, count)
        points.append((f"{ARCHIVE}, a zip of them", ""))
    for what, wrong in points:
        print(f"[{' ' if wrong else 'x'}] {what}{f': {wrong}' if wrong else ''}")
    if points[-1][1]:
        return 1
    value, source = fid(METRICS, FOLDER, count)
    below = value is not None and value < FID
    print(f"[{'x' if below else ' '}] FID below {FID:g}: {source if value is None else f'{value:.2f}, of {source}'}")
    return 0 if below or value is None else 1


if __name__ == "__main__":
    sys.exit(main())
