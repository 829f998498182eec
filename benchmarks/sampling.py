"""`python -m benchmarks.sampling [--only NAME ...]`: sampler settings on the trained model.

Draws 5,000 images with each setting, with the sampling seeds 10 and 11, which no result uses. Rows
of other settings stay in benchmarks/results/sampling.json. Needs arrays/ and models/ of a run on
MNIST.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.own import Judge, mnist
from src import drawing, model_file, params
from src.common import artifact, reports
from src.common.allocator import keep_freed_memory
from tools.machine import describe

RESULT = Path("benchmarks/results/sampling.json")
MODEL = "models/model.safetensors"
COUNT, SEEDS = 5000, (10, 11)
# Changes of the default sampler.
SETTINGS: dict[str, dict] = {
    "the default": {},
    "20 steps": {"steps": 20},
    "26 steps": {"steps": 26},
    "no guidance by class": {"guidance": 1.0},
    "no autoguidance": {"autoguidance": 1.0},
    "autoguidance to 1": {"autoguidance_interval": (-1.7, 1.0)},
    "autoguidance to 3": {"autoguidance_interval": (-1.7, 3.0)},
    "autoguidance 1.4 to 3": {"autoguidance": 1.4, "autoguidance_interval": (-1.7, 3.0)},
    "eta 0.7": {"eta": 0.7},
    "eta 0.5": {"eta": 0.5},
    "sde-dpmsolver++": {"method": "sde-dpmsolver++"},
    "sde-dpmsolver++, 20 steps": {"method": "sde-dpmsolver++", "steps": 20},
    "sde-dpmsolver++, autoguidance to 3": {
        "method": "sde-dpmsolver++",
        "autoguidance_interval": (-1.7, 3.0),
    },
    "sde-dpmsolver++, autoguidance to 1": {
        "method": "sde-dpmsolver++",
        "autoguidance_interval": (-1.7, 1.0),
    },
    "sde-dpmsolver++, autoguidance 1.4 to 3": {
        "method": "sde-dpmsolver++",
        "autoguidance": 1.4,
        "autoguidance_interval": (-1.7, 3.0),
    },
    "sde-dpmsolver++, autoguidance from -0.5 to 3": {
        "method": "sde-dpmsolver++",
        "autoguidance_interval": (-0.5, 3.0),
    },
    "sde-dpmsolver++, autoguidance from 1 to 4": {
        "method": "sde-dpmsolver++",
        "autoguidance_interval": (1.0, 4.0),
    },
    "autoguidance from -0.5 to 3": {"autoguidance_interval": (-0.5, 3.0)},
    "20 steps, autoguidance to 3": {"steps": 20, "autoguidance_interval": (-1.7, 3.0)},
}
MEASURED = ("fd_imagenet", "fd_digits", "accuracy", "broken", "grey_0", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    arguments = parser.parse_args()
    keep_freed_memory()
    data, default, about = mnist(), params.load().sample.sampler, describe("torch")
    judge, (model, _) = Judge(), model_file.open_model(MODEL, "auto")
    fingerprint = artifact.digest(MODEL)
    rows = []
    if RESULT.exists() and (before := json.loads(RESULT.read_text()))["model"] == fingerprint:
        rows = before["rows"]
    for seed in arguments.seeds:
        labels = drawing.choose_labels(None, data.class_counts(), seed, COUNT)
        for name in arguments.only:
            sampler = replace(default, **SETTINGS[name])
            started = time.perf_counter()
            pixels = drawing.draw(model, sampler, seed, COUNT, labels)
            row = {"setting": name, "seed": seed, "seconds": time.perf_counter() - started}
            row |= judge.scores(pixels, labels)
            rows = [old for old in rows if (old["setting"], old["seed"]) != (name, seed)] + [row]
            print({key: row[key] for key in ("setting", "seed", *MEASURED)}, flush=True)
            result = {"images": COUNT, "model": fingerprint, "summary": summary(rows)}
            reports.write_json(RESULT, result | {"rows": rows} | about)


def summary(rows: list[dict]) -> list[dict]:
    """Means over the seeds."""
    lines = []
    for name in dict.fromkeys(row["setting"] for row in rows):
        own = [row for row in rows if row["setting"] == name]
        means = {key: statistics.mean(row[key] for row in own) for key in MEASURED}
        lines.append({"setting": name, "seeds": len(own)} | means)
    return lines


if __name__ == "__main__":
    main()
