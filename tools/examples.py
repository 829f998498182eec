"""`python -m tools.examples {cifar10,homework} FILE`: write a zip of images.

cifar10: the photographs of CIFAR-10 (Krizhevsky 2009), which torchvision downloads (170 MB), as
train/<class>/00001.png and test/<class>/00001.png. homework: the training images in data/ as
mnist/00001.png and so on, in RGB and without labels.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from src import archives, params
from src.common.errors import UserError
from src.common.torchvision_remedy import torchvision
from tools.get_data import write_zip


def photographs(folder: str | Path) -> Iterator[tuple[str, Image.Image]]:
    """Name and image of each photograph of CIFAR-10. Downloads them to `folder`."""
    for part in ("train", "test"):
        data = torchvision.datasets.CIFAR10(folder, train=part == "train", download=True)
        written = Counter[int]()
        for image, label in data:
            written[label] += 1
            yield f"{part}/{data.classes[label]}/{written[label]:05d}.png", image


def homework(folder: str | Path) -> Iterator[tuple[str, Image.Image]]:
    """Name and image of each training image of the data set in `folder`."""
    data = archives.read(folder, params.load().unpack)[0]
    for i, image in enumerate(data.images, start=1):
        colour = np.ascontiguousarray(image.expand(3, -1, -1).permute(1, 2, 0).numpy())
        yield f"mnist/{i:05d}.png", Image.fromarray(colour)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["cifar10", "homework"])
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            images = photographs(scratch) if arguments.what == "cifar10" else homework("data")
            print(f"{arguments.file}: {write_zip(arguments.file, images):,} images")
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
