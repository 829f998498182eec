"""`make draw MODEL=students/student-2.safetensors`: draw with any model file, such as a student.

python -m tools.draw MODEL

It writes drawn/NAME/ with PNGs 00001.png, 00002.png ... and drawn/NAME.csv with their classes, for
`make score FOLDER=drawn/NAME CLASSES=drawn/NAME.csv`. `sample` in params.yaml has the seed, count,
classes and precision. A student has its own sampler; for another model, `sample` has that too.
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
from src.distillation.students import student_sampler

TARGET = Path("drawn")


def draw(path: Path) -> str:
    """Draw with this model file, replacing earlier images of it. Returns what was written."""
    settings = params.load().sample
    if not path.exists():
        raise UserError(f"{path}: not found. Model files are in students/ and models/")
    denoiser, about = model_file.open_model(path, settings.precision)
    sampler = drawing.fitted(settings.sampler, denoiser)
    if about.get("evaluations"):
        sampler = student_sampler(about)
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
    publish(unfinished, target)
    seconds = time.perf_counter() - started
    table = target.with_suffix(".csv")
    table.unlink(missing_ok=True)
    evaluations = sampler.evaluations(denoiser)
    found = f"{target}/: {count:,} images, {evaluations} evaluations each, in {seconds:.0f} s"
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
    try:
        print(f"draw: {draw(parser.parse_args().model)}")
    except (UserError, OSError) as error:
        sys.exit(f"draw: {error}")


if __name__ == "__main__":
    main()
