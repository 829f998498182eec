"""`make score FOLDER=path`: a score for a folder of digits that somebody drew.

python -m tools.score PATH [--classes auto|none|cycle|FILE.csv] [--fit exact|resize|crop]

PATH is a folder, zip or tar of PNGs or JPEGs, or an .npy or .npz file. It prints each score with
its standard deviation over draws of as many images, next to what as many real test digits score
(the floor), and writes scores/NAME.json. Images of MNIST come from data/ or as for `make run`;
without them some scores are missing, and the floor is the stored one of the nearest number.
"""

from __future__ import annotations

import argparse
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
from src.score.measure import Instrument, Real, Scores
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
    "memorised": "possible copies of training digits; at most 1 % is normal",
}
PERCENT = {"accuracy", "precision", "recall", "coverage", "broken", "memorised"}


def real_images() -> tuple[Dataset | None, str]:
    """MNIST, and where it came from or why it is missing."""
    fingerprint = json.loads((YARDSTICK / "about.json").read_text())["dataset_fingerprint"]
    if ARRAYS.exists():
        data = dataset.load(ARRAYS)
        if data.fingerprint == fingerprint:
            return data, f"MNIST from {ARRAYS}"
    names = [name for name, _ in get_data.mnist_files()]
    folder = get_data.DATA
    source = f"MNIST from {folder}/"
    if not all((folder / name).exists() for name in names):
        folder = FETCHED
        source = f"MNIST from {folder}/"
        if not all((folder / name).exists() for name in names):
            try:
                source = get_data.from_mirrors(folder)
            except get_data.Unavailable as error:
                return None, f"no MNIST ({error}): some scores are missing"
    data, _ = archives.read(folder, folders.SETTINGS.model_copy(update={"split": "auto"}))
    return data, source


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


def run(path: Path, classes: str, fit: folders.Fit) -> dict:
    """Score `path`, print the table, and return the values as JSON. Raises UserError."""
    console = Console(highlight=False)
    scored = folders.read(path, classes, fit)
    for note in scored.notes:
        console.print(printable(note), markup=False)
    data, source = real_images()
    console.print(source, markup=False)
    fingerprint = json.loads((YARDSTICK / "about.json").read_text())["dataset_fingerprint"]
    instrument = Instrument(YARDSTICK, fingerprint)
    stored = floors_of.Floors.load(YARDSTICK)
    real = None if data is None else Real(data)
    found = instrument.measure(scored.images, scored.labels, real, stored.near)
    count, floors = stored.nearest(len(scored.images))
    if data is not None and count != len(scored.images):
        count = min(len(scored.images), len(data.heldout_images))
        floors = floors_of.of_real(instrument, data, count, stored.near)
    console.print(table(found, floors, count))
    if count != len(scored.images):
        console.print(f"The floor is that of {count:,} images: distances fall with their number.")
    return {
        "path": scored.name,
        "images": len(scored.images),
        "notes": scored.notes,
        "yardstick": instrument.name,
        "scores": {name: vars(value) for name, value in found.items()},
        "floor_images": count,
        "floors": {name: vars(value) for name, value in floors.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("--classes", default="auto")
    parser.add_argument("--fit", choices=("exact", "resize", "crop"), default="exact")
    arguments = parser.parse_args()
    try:
        result = run(arguments.path, arguments.classes, arguments.fit)
    except UserError as error:
        print(f"score: {error}", file=sys.stderr)
        return 1
    target = TARGET / f"{arguments.path.name}.json"
    target.parent.mkdir(exist_ok=True)
    reports.write_json(target, result)
    print(f"{target} has all values")
    return 0


if __name__ == "__main__":
    sys.exit(main())
