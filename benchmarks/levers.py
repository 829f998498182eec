"""`python -m benchmarks.levers [--only NAME ...]`: which settings bring digits nearer to real ones?

Trains each variant for 1,500 steps with the seeds 10, 11 and 12, and draws 2,500 images of each
with the sampling seed 10. The committed run has other seeds. Rows of other variants stay in
benchmarks/results/levers.json. Needs arrays/ and models/ of a run on MNIST.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

from scipy.stats import ttest_rel

from benchmarks.own import changed, mnist, trained_for
from src import classifier, drawing, params
from src.common import reports
from src.measure import frechet, greys, scores, strokes
from src.measure.extractors import IMAGENET, LoadedExtractor
from tools.machine import describe

RESULT = Path("benchmarks/results/levers.json")
STEPS, COUNT, SEEDS, SAMPLING_SEED = 1500, 2500, (10, 11, 12), 10
DEFAULT = "the default"
# Changes of params.yaml for the training.
VARIANTS: dict[str, dict] = {
    DEFAULT: {},
    "margin 0.1": {"model": {"margin": 0.1}},
    "margin 0.2": {"model": {"margin": 0.2}},
    "margin 0.1, focus 0.6 0.3": {
        "model": {"margin": 0.1},
        "train": {"times": "focus 0.6 0.3"},
    },
    "margin 0.1, uniform times": {"model": {"margin": 0.1}, "train": {"times": "uniform"}},
    "margin 0.1, learned weighting": {
        "model": {"margin": 0.1},
        "train": {"weighting": "learned"},
    },
    "margin 0.1, flow": {"model": {"margin": 0.1}, "schedule": "flow"},
    "margin 0.1, flow, focus 0.6 0.3": {
        "model": {"margin": 0.1},
        "schedule": "flow",
        "train": {"times": "focus 0.6 0.3"},
    },
    "margin 0.1, flow, uniform times": {
        "model": {"margin": 0.1},
        "schedule": "flow",
        "train": {"times": "uniform"},
    },
    "margin 0.1, predicts epsilon": {"model": {"margin": 0.1, "prediction": "epsilon"}},
}
# Changes of the default sampler.
SAMPLERS: dict[str, dict] = {
    "13 steps": {},
    "26 steps": {"steps": 26},
    "26 steps, autoguidance to 3": {"steps": 26, "autoguidance_interval": (-1.7, 3.0)},
}
MEASURED = ("fd_imagenet", "fd_digits", "accuracy", "broken", "grey_0")


def summary(rows: list[dict]) -> list[dict]:
    """Means over the seeds, and t of the differences from the default with the same sampler."""
    lines = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        for sampler in SAMPLERS:
            own = _chosen(rows, variant, sampler)
            default = _chosen(rows, DEFAULT, sampler)
            if not own:
                continue
            line: dict = {"variant": variant, "sampler": sampler, "seeds": len(own)}
            for name in MEASURED:
                line[name] = statistics.mean(row[name] for row in own.values())
            if variant != DEFAULT and len(own) > 1 and own.keys() == default.keys():
                pairs = [(own[seed]["fd_imagenet"], default[seed]["fd_imagenet"]) for seed in own]
                line["t"] = float(ttest_rel(*zip(*pairs, strict=True)).statistic)
            lines.append(line)
    return lines


def _chosen(rows: list[dict], variant: str, sampler: str) -> dict[int, dict]:
    return {r["seed"]: r for r in rows if (r["variant"], r["sampler"]) == (variant, sampler)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    arguments = parser.parse_args()
    data, defaults, about = mnist(), params.load(), describe("torch")
    instrument, _ = classifier.load("models/classifier.safetensors")
    digits = frechet.load("reference/digits.npz", classifier.FEATURES)
    imagenet = frechet.load("reference/imagenet.npz", IMAGENET.dims)
    network = LoadedExtractor(IMAGENET)
    labels = drawing.choose_labels(None, data.class_counts(), SAMPLING_SEED, COUNT)
    rows = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    for seed in arguments.seeds:
        for variant in arguments.only:
            changes = {"seed": seed} | VARIANTS[variant]
            changes["train"] = {"steps": STEPS} | changes.get("train", {})
            p = changed(defaults, changes)
            model = trained_for(p, data).model
            rows = [row for row in rows if (row["variant"], row["seed"]) != (variant, seed)]
            for name, settings in SAMPLERS.items():
                sampler = replace(p.sample.sampler, **settings)
                pixels = drawing.draw(model, sampler, SAMPLING_SEED, COUNT, labels)
                row = {"variant": variant, "sampler": name, "seed": seed}
                row |= {"fd_imagenet": frechet.distance(network.moments(pixels), imagenet)}
                row |= scores.quick(instrument, pixels, labels, digits)
                row |= {"broken": strokes.broken(pixels)} | greys.shares(pixels)
                rows.append(row)
                print(row, flush=True)
            result = {"train_steps": STEPS, "images": COUNT, "summary": summary(rows)}
            reports.write_json(RESULT, result | {"rows": rows} | about)


if __name__ == "__main__":
    main()
