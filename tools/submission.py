"""`make submission`: check generated_images/ against the rules of a course, and zip it.

The rules: 10,000 RGB PNGs of one size, named 00001.png to 10000.png, in one folder without
subfolders, and an Inception FID below 30. It prints a checklist and exits with 1 if a rule is
broken. An FID that was not measured breaks no rule, but its box stays empty.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

from PIL import Image

from src import images, provenance
from src.common.errors import UserError
from src.common.files import replacing

FOLDER = Path("generated_images")
ARCHIVE = Path("submission/generated_images.zip")
METRICS = Path("metrics/fid.json")
COUNT, MAX_FID = 10_000, 30.0


def checks(folder: Path, count: int) -> list[tuple[str, str]]:
    """(rule, problem) for every rule about the files. The problem is "" if the rule holds."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [entry for entry in entries if entry.is_file()]  # links of DVC's cache too
    names = {entry.name for entry in entries}
    expected = {images.file_name(number) for number in range(1, count + 1)}
    odd = sorted(names ^ expected)
    others = [entry.name for entry in entries if not entry.is_file()]
    kinds, broken = kinds_of(files)
    modes = sorted(name for (mode, _), name in kinds.items() if mode != "RGB")
    sizes = sorted({size for _, size in kinds})
    wrong_count = "" if len(files) == count else f"found {len(files):,} in {folder}/"
    wrong_name = f"{odd[0]} is {'missing' if odd[0] in expected else 'unexpected'}" if odd else ""
    not_rgb = f"{modes[0]} is not" if modes else "" if kinds else "there are none"
    shown_sizes = ", ".join(f"{width}x{height}" for width, height in sizes) or "none"
    return [
        (f"{count:,} images", wrong_count),
        (f"named 00001.png to {count:05d}.png", wrong_name),
        ("no subdirectories", f"{others[0]} is no file" if others else ""),
        ("all of them whole RGB PNGs", broken or not_rgb),
        ("all of one size", "" if len(sizes) == 1 else f"found {shown_sizes}"),
    ]


def kinds_of(files: list[Path]) -> tuple[dict[tuple, str], str]:
    """The first file of each (mode, size), and the problem of the first broken file, or ""."""
    kinds: dict[tuple, str] = {}
    broken = ""
    for file in files:
        try:
            with Image.open(file, formats=["PNG"]) as image:
                image.load()
                kinds.setdefault((image.mode, image.size), file.name)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            broken = broken or f"{file.name}: {error}"
    return kinds, broken


def fid(metrics: Path, folder: Path, count: int) -> tuple[float | None, str]:
    """The FID of these images and the file that holds it, or None and how to measure it."""
    try:
        values = provenance.read(metrics, provenance.FidMetrics) if metrics.exists() else None
    except UserError as error:
        return None, str(error)
    if values is None or values["fid"] is None:
        return None, (
            "not measured. Measure it with `dvc exp run -S fid.inception=always fid`, "
            "which needs Inception's weights"
        )
    digest = images.PixelDigest()
    for batch in images.stream(folder, count):
        digest.add(batch)
    if digest.hex() != values["pixels"]:
        return None, f"{metrics}: measured on other images. `dvc repro fid` measures these"
    return values["fid"], str(metrics)


def pack(folder: Path, archive: Path, count: int) -> None:
    """Zip the images, without folders. Equal images give an archive of equal bytes.

    Raises OSError if the archive cannot be read back.
    """
    with replacing(archive) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as zipped:
            for number in range(1, count + 1):
                member = zipfile.ZipInfo(images.file_name(number))  # always dated 1980
                member.external_attr = 0o644 << 16
                zipped.writestr(member, (folder / member.filename).read_bytes())
        with zipfile.ZipFile(temporary) as zipped:
            if zipped.testzip() or len(zipped.namelist()) != count:
                raise OSError(
                    f"{archive}: the new archive is damaged. Free some disk space and try again"
                )


def main(count: int = COUNT) -> int:
    points = checks(FOLDER, count)
    ARCHIVE.unlink(missing_ok=True)  # it may hold other images
    if any(wrong for _, wrong in points):
        not_made = "not made. First fix the points above; `make samples` draws the images"
        points.append((f"{ARCHIVE}, a zip of them", not_made))
    else:
        pack(FOLDER, ARCHIVE, count)
        points.append((f"{ARCHIVE}, a zip of them", ""))
    for rule, wrong in points:
        print(f"[{' ' if wrong else 'x'}] {rule}{f': {wrong}' if wrong else ''}")
    if points[-1][1]:
        return 1
    value, source = fid(METRICS, FOLDER, count)
    holds = value is not None and value < MAX_FID
    result = source if value is None else f"{value:.2f}, from {source}"
    print(f"[{'x' if holds else ' '}] FID below {MAX_FID:g}: {result}")
    return 0 if holds or value is None else 1


if __name__ == "__main__":
    sys.exit(main())
