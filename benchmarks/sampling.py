"""`python -m benchmarks.sampling [--only NAME ...]`: sampler settings on the trained model.

Draws 10,000 images with each setting, with the sampling seed 10, which the committed run does not
use. Rows of other settings stay in benchmarks/results/sampling.json. Needs arrays/ and models/ of a
run on MNIST.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.own import Judge, kept, mnist
from benchmarks.tables import table
from src import drawing, model_file
from src.common import artifact, reports
from src.common.allocator import keep_freed_memory
from src.diffusion.samplers import Sampler
from tools.machine import describe

RESULT = Path("benchmarks/results/sampling.json")
MODEL = "models/model.safetensors"
COUNT, SEEDS = 10_000, (10,)
SDE = {"method": "sde-dpmsolver++"}
TO_3, TO_4 = ({"autoguidance_interval": (-1.7, end)} for end in (3.0, 4.0))
# Costs 16 evaluations an image.
SA_SOLVER = Sampler(
    "sa-solver",
    13,
    "logsnr",
    eta=1.0,
    guidance=1.8,
    guidance_interval=(-1.7, -0.7),
    autoguidance=1.8,
    autoguidance_interval=(-1.7, 0.1),
)
# Changes of SA_SOLVER.
SETTINGS: dict[str, dict] = {
    "sa-solver, 13 steps": {},
    "no classifier-free guidance": {"guidance": 1.0},
    "no autoguidance": {"autoguidance": 1.0},
    "26 steps": {"steps": 26},
    "autoguidance to 3": TO_3,
    "sde-dpmsolver++": SDE,
    "sde-dpmsolver++, autoguidance to 3": SDE | TO_3,
    "sde-dpmsolver++, 20 steps, autoguidance to 3": SDE | {"steps": 20} | TO_3,
    "sde-dpmsolver++, 16 steps, autoguidance to 4": SDE | {"steps": 16} | TO_4,
    "the same, guidance 1.4": SDE | {"steps": 16, "guidance": 1.4} | TO_4,
    "the same, guidance 1.7": SDE | {"steps": 16, "guidance": 1.7} | TO_4,
}
MEASURED = ("fd_imagenet", "fd_digits", "accuracy", "broken", "grey_0", "evaluations")


def markdown(result: dict) -> str:
    """The table in docs/results.md."""
    head = ["sampler", "evaluations", "`fd_imagenet`", "`fd_digits`", "`accuracy`", "`broken`"]
    rows = [
        [
            line["setting"],
            f"{line['evaluations']:.0f}",
            *(f"{line[key]:.1f}" for key in ("fd_imagenet", "fd_digits")),
            *(f"{100 * line[key]:.1f} %" for key in ("accuracy", "broken")),
        ]
        for line in result["summary"]
    ]
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--table", action="store_true", help="print the committed result")
    arguments = parser.parse_args()
    if arguments.table:
        print(markdown(json.loads(RESULT.read_text())))
        return
    keep_freed_memory()
    data, about = mnist(), describe("torch")
    judge, (model, _) = Judge(), model_file.open_model(MODEL, "auto")
    fingerprint = artifact.digest(MODEL)
    rows = kept(RESULT, {"model": fingerprint})
    for seed in arguments.seeds:
        labels = drawing.choose_labels(None, data.class_counts(), seed, COUNT)
        for name in arguments.only:
            sampler = replace(SA_SOLVER, **SETTINGS[name])
            started = time.perf_counter()
            pixels = drawing.draw(model, sampler, seed, COUNT, labels)
            row = {"setting": name, "seed": seed, "seconds": time.perf_counter() - started}
            row["evaluations"] = sampler.evaluations(model)
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
