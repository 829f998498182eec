"""`python -m tests.shapes FILE [COUNT]`: write a zip of 32x32 pictures in colour.

Discs are in 0/, squares in 1/, triangles in 2/: something to train on that is neither digits nor
grey. Equal counts give equal bytes.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE, OVERSAMPLED = 32, 4


def picture(kind: int, random: np.random.Generator) -> Image.Image:
    """A shape in a light colour on a dark ground; place, size and angle are random."""
    canvas = Image.new("RGB", (SIDE * OVERSAMPLED,) * 2, tuple(random.integers(0, 70, 3).tolist()))
    colour = tuple(random.integers(120, 256, 3).tolist())
    radius = random.uniform(0.2, 0.38) * canvas.width
    x, y = random.uniform(radius, canvas.width - radius, 2)
    draw = ImageDraw.Draw(canvas)
    if kind == 0:
        draw.circle((x, y), radius, fill=colour)
    else:
        draw.regular_polygon(
            (x, y, radius), {1: 4, 2: 3}[kind], random.uniform(0, 360), fill=colour
        )
    return canvas.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def write(path: Path, count: int) -> None:
    random = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(count):
            buffer = io.BytesIO()
            picture(i % 3, random).save(buffer, "PNG")
            archive.writestr(zipfile.ZipInfo(f"{i % 3}/{i:05d}.png"), buffer.getvalue())


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3000)
