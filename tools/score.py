"""`make score FOLDER=path`: a score for a folder of digits that somebody drew.

python -m tools.score PATH [--classes auto|none|cycle|FILE.csv] [--fit exact|resize|crop]
                           [--range 0..255|0..1|-1..1] [--invert]

PATH is a folder, zip or tar of PNGs or JPEGs, or an .npy or .npz file. It prints each score with
its standard deviation over draws of as many images. Next to it is the floor: the score of as many
real test digits. scores/NAME.json has all values, or NAME-2.json if that one is of another folder
or has other options. Images of MNIST come from data/ or as for `make run`. Without them some scores
are missing, and the floor is the stored one of the nearest number.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from src import archives
from src.common import dataset, reports
from src.common.dataset import Dataset
from src.common.errors import UserError, printable
from src.score import floors as floors_of
from src.score import folder as folders
from src.score.measure import Instrument, Scores
from tools import get_data

YARDSTICK = Path("yardstick")
ARRAYS, FETCHED = Path("arrays/dataset.safetensors"), Path(".scratch/mnist")
TARGET = Path("scores")
MEANING = {
    "fd_imagenet": "Frechet distance in features of an ImageNet network; lower is better",
    "fd_digits": "Frechet distance in features of a digit classifier; lower is better",
    "kid_digits": "kernel distance in the same features; 0 is best",
    "accuracy": "share recognised as the label",
    "precision": "share that look like real digits",
    "recall": "share of real digits close to one of these",
    "density": "like precision, less sensitive to outliers",
    "coverage": "share of real digits with one of these close by",
    "broken": "share of digits with strokes in pieces",
    "memorised": "possible copies: closer to a training digit than 99 % of test digits",
}
PERCENT = {"accuracy", "precision", "recall", "coverage", "broken", "memorised"}


def real_images(fingerprint: str) -> tuple[Dataset | None, str]:
    """MNIST, with this fingerprint, and where it came from or why it is missing."""
    with contextlib.suppress(UserError):
        data = dataset.load(ARRAYS)
        if data.fingerprint == fingerprint:
            return data, f"MNIST from {ARRAYS}"
    for folder in (get_data.DATA, FETCHED):
        data = _of_folder(folder, fingerprint)
        if data is not None:
            return data, f"MNIST from {folder}/"
    try:
        source = get_data.from_mirrors(FETCHED)
    except get_data.Unavailable as error:
        return None, f"no MNIST ({error}): some scores are missing"
    return _of_folder(FETCHED, fingerprint), source


def _of_folder(folder: Path, fingerprint: str) -> Dataset | None:
    """MNIST from its four files in a folder; None if they are not there, or are of another set."""
    if not all((folder / name).exists() for name, _ in get_data.mnist_files()):
        return None
    try:
        data, _ = archives.read(folder, folders.SETTINGS.model_copy(update={"split": "auto"}))
    except UserError:
        return None
    return data if data.fingerprint == fingerprint else None


def text(name: str, value: float, deviation: float | None) -> str:
    """A score with its standard deviation, as text."""
    scale, unit = (100, " %") if name in PERCENT else (1, "")
    digits = 5 if name == "kid_digits" else 3 if name == "density" else 2
    shown = f"{scale * value:.{digits}f}"
    if deviation is not None:
        shown += f" +- {scale * deviation:.{digits}f}"
    return shown + unit


def table(found: Scores, floors: Scores, count: int) -> Table:
    """All scores, each next to its floor."""
    grid = Table(title_justify="left")
    for heading in ("score", "value", f"{count:,} real digits", "meaning"):
        grid.add_column(heading)
    for name, meaning in MEANING.items():
        if name in found:
            one, floor = found[name], floors.get(name)
            real = text(name, floor.value, floor.deviation) if floor else ""
            grid.add_row(name, text(name, one.value, one.deviation), real, meaning)
    return grid


def run(scored: folders.Scored) -> dict:
    """Score the images, print the table, and return the values as JSON. Raises UserError."""
    console = Console(highlight=False)
    for note in scored.notes:
        console.print(printable(note), markup=False)
    instrument, stored = Instrument(YARDSTICK), floors_of.Floors.load(YARDSTICK)
    data, source = real_images(instrument.yardstick.dataset_fingerprint)
    console.print(source, markup=False)
    found = instrument.measure(scored.images, scored.labels, data, stored.near)
    count, floors = stored.nearest(len(scored.images))
    if data is not None and count != len(scored.images):
        count = min(len(scored.images), len(data.heldout_images))
        floors = floors_of.of_real(instrument, data, count, stored.near)
    console.print(table(found, floors, count))
    if count != len(scored.images):
        side = "low" if count > len(scored.images) else "high"
        console.print(
            f"The real digits are {count:,}. Distances fall with their number, so theirs are too "
            f"{side} for {len(scored.images):,} images. Coverage rises with it."
        )
    return {
        "images": len(scored.images),
        "notes": scored.notes,
        "yardstick": instrument.yardstick.name,
        "scores": {name: vars(value) for name, value in found.items()},
        "floor_images": count,
        "floors": {name: vars(value) for name, value in floors.items()},
    }


def free(name: str, asked: dict) -> Path:
    """Where to write a score: not over that of another folder, or one with other options."""
    target, number = TARGET / f"{name}.json", 1
    while target.exists() and _asked(target) != asked:
        number += 1
        target = TARGET / f"{name}-{number}.json"
    return target


def _asked(target: Path) -> dict | None:
    """Path and options of the score in a file; None if it is no score."""
    try:
        return json.loads(target.read_text(encoding="utf-8"))["asked"]
    except (ValueError, TypeError, KeyError):
        return None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", help="a folder, zip, tar, .npy or .npz")
    parser.add_argument("--classes", default="auto")
    parser.add_argument("--fit", choices=("exact", "resize", "crop"), default="exact")
    parser.add_argument("--range", choices=("auto", "0..255", "0..1", "-1..1"), default="auto")
    parser.add_argument("--invert", action="store_true", help="for black digits on white")
    words = sys.argv[1:]
    if "--range" in words[:-1]:  # argparse takes -1..1 for an option
        at = words.index("--range")
        words[at : at + 2] = ["=".join(words[at : at + 2])]
    arguments = parser.parse_args(words)
    try:
        if not arguments.path:
            raise UserError("give a path, as in make score FOLDER=my_digits")
        scored = folders.read(
            arguments.path, arguments.classes, arguments.fit, arguments.range, arguments.invert
        )
        asked = vars(arguments) | {"path": str(Path(arguments.path).expanduser().resolve())}
        result = {"asked": asked} | run(scored)
        TARGET.mkdir(exist_ok=True)
        target = free(scored.name, asked)
        reports.write_json(target, result)
    except (UserError, OSError) as error:
        print(f"score: {printable(str(error))}", file=sys.stderr)
        return 1
    print(f"{target} has all values")
    return 0


if __name__ == "__main__":
    sys.exit(main())
