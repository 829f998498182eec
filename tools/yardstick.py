"""`python -m tools.yardstick NAME`: make yardstick/ from the results of the pipeline.

It takes the classifier, its moments, and the moments and floors of fd_imagenet, of the data set at
hand. Give it a new name: values of two yardsticks do not compare. `python -m tools.yardstick
--floors` measures what real test digits score, for `make score`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from src import provenance, yardstick
from src.common import dataset
from src.common.errors import UserError
from src.common.files import copy
from src.score import floors
from src.score.measure import Instrument

FOLDER = Path("yardstick")
SOURCES: dict[yardstick.File, str] = {
    "classifier.safetensors": "models/classifier.safetensors",
    "digits.npz": "reference/digits.npz",
    "imagenet.npz": "reference/imagenet.npz",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name", nargs="?", help="name of the yardstick, such as mnist-1")
    parser.add_argument("--floors", action="store_true", help="measure the floors of make score")
    arguments = parser.parse_args()
    if not arguments.name and not arguments.floors:
        parser.error("expected NAME, --floors or both")
    try:
        if arguments.name:
            make(arguments.name, FOLDER)
        if arguments.floors:
            measure_floors(FOLDER)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def measure_floors(folder: Path) -> None:
    """Write what real test digits score. Raises UserError for another data set's yardstick."""
    data = dataset.load("arrays/dataset.safetensors")
    instrument = Instrument(folder)
    expected = instrument.yardstick.dataset_fingerprint
    provenance.expect("arrays/dataset.safetensors, its data set", data.fingerprint, expected)
    floors.make(instrument, data, folder)


def make(name: str, folder: Path) -> None:
    """Write the yardstick. Raises UserError unless the files belong together."""
    about = provenance.read("reference/about.json", provenance.ReferenceAbout)
    imagenet = provenance.read("reference/imagenet.json", provenance.ExtractorAbout)
    expected = {
        "classifier.safetensors": about["classifier"],
        "digits.npz": about["moments"],
        "imagenet.npz": imagenet["moments"],
    }
    for file, source in SOURCES.items():
        provenance.expect_file(source, "for the yardstick", str(expected[file]))
        copy(source, folder / file)
    yardstick.Yardstick(
        name=name,
        dataset=about["dataset"],
        dataset_fingerprint=about["dataset_fingerprint"],
        floors={"heldout": imagenet["floors"]["heldout"], "train": imagenet["floors"]["train"]},
        sha256={file: yardstick.sha256(folder / file) for file in SOURCES},
    ).save(folder)


if __name__ == "__main__":
    sys.exit(main())
