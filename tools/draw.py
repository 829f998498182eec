"""`make draw MODEL=students/student-2.safetensors`: draw with any model file, such as a student.

python -m tools.draw MODEL [--count N] [--seed N]

It writes drawn/NAME/ with PNGs 00001.png, 00002.png ... and drawn/NAME.csv with their classes, for
`make score FOLDER=drawn/NAME CLASSES=drawn/NAME.csv`. Count, seed, classes and precision are those
of `sample` in params.yaml. A student has its own sampler; another model takes that of `sample`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from tqdm import tqdm

from src import drawing, images, model_file, params
from src.common import reports
from src.common.dataset import names_of_classes
from src.common.errors import UserError
from src.common.files import publish
from src.common.schema import parse
from src.distillation.students import student_sampler

TARGET = Path("drawn")


def settings_with(**changes: int | None) -> params.Sample:
    """`sample` in params.yaml, with these changes. Raises UserError for values it cannot have."""
    values = params.load().sample.model_dump()
    values |= {key: value for key, value in changes.items() if value is not None}
    try:
        return parse(params.Sample, values)
    except ValueError as error:
        raise UserError(str(error)) from None


def draw(path: Path, settings: params.Sample) -> str:
    """Draw with this model file, replacing earlier images of it. Returns what was written."""
    if not path.exists():
        raise UserError(
            f"{path}: not found. students/ has students; "
            f"`dvc pull models/model.safetensors` fetches the trained model"
        )
    denoiser, about = model_file.open_model(path, settings.precision)
    if about.get("evaluations"):
        sampler = student_sampler(about)
    else:
        sampler = drawing.fitted(settings.sampler, denoiser)
    count, seed = settings.count, settings.seed
    labels = drawing.labels_for(denoiser, about, settings.classes, seed, count)
    target, unfinished = TARGET / path.stem, TARGET / f".{path.stem}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    started = time.perf_counter()
    parts = drawing.parts(count, settings.batch_size)
    with tqdm(desc="draw", unit="image", total=count) as bar:
        for batch in drawing.batches(denoiser, sampler, seed, labels, parts):
            images.write(unfinished, batch.first, batch.images)
            bar.update(len(batch.images))
    table = TARGET / f"{path.stem}.csv"
    table.unlink(missing_ok=True)  # first: it must never stand beside other images
    publish(unfinished, target)
    seconds = time.perf_counter() - started
    evaluations = sampler.evaluations(denoiser)
    found = f"{target}/: {count:,} images in {seconds:.1f} s; evaluations for each: {evaluations}"
    if labels is None:
        return found
    names = names_of_classes(about.get("class_names"), denoiser.config.unet.classes)
    rows = [
        {"name": images.file_name(number), "label": names[label]}
        for number, label in enumerate(labels.tolist(), start=1)
    ]
    reports.write_csv(table, rows)
    return f"{found}; {table} has their classes"


def main() -> None:
    parser = argparse.ArgumentParser(prog="make draw", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path, help="a file in students/ or models/")
    parser.add_argument("--count", type=int, help="images (default: sample.count)")
    parser.add_argument("--seed", type=int, help="their noise (default: sample.seed)")
    arguments = parser.parse_args()
    try:
        settings = settings_with(count=arguments.count, seed=arguments.seed)
        print(f"draw: {draw(arguments.model, settings)}")
    except (UserError, OSError) as error:
        sys.exit(f"draw: {error}")


if __name__ == "__main__":
    main()
