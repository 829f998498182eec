"""`python -m benchmarks.ablations [--seconds 90] [--seeds 3] [--only NAME ...]`: one choice of params.yaml undone at a time.

Each variant is trained for the same time, from several training seeds, in turns; then 2,000 images are drawn with the default
sampler and measured. Told are mean and standard deviation over the seeds, and the difference to the default's distance with the
p of Welch's t test: one of so many comparisons, and blind to what three seeds cannot show.

Needs arrays/, models/classifier.safetensors and reference/ of a run on MNIST. What is so short a training's best need not be a
long one's. Writes benchmarks/results/ablations.json after every training: what is in there is of one call.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from scipy.stats import ttest_ind

from benchmarks.machine import describe
from benchmarks.own import changed, mnist, trained
from src import classifier, drawing, frechet, params, scores
from src.errors import UserError

RESULT = Path("benchmarks/results/ablations.json")
IMAGES = 2000
VARIANTS = {
    "the default": {},
    "AdamW for all weights": {"train": {"muon_lr": None}},
    "all noise levels alike": {"train": {"focus": 0.0}},
    "epsilon": {"model": {"prediction": "epsilon"}},
    "linear schedule": {"schedule": "linear", "train": {"focus_at": 0.34}},  # the same log-SNR, -0.8
    "pixels, no patches": {"model": {"patch_size": 1, "attention_resolutions": [14]}},  # attention stays in the middle
    "64 channels, one block a level": {"model": {"base_channels": 64, "res_blocks": 1}},
    "no attention": {"model": {"attention_resolutions": []}},
    "batches of 64": {"train": {"batch_size": 64}},
    "batches of 256": {"train": {"batch_size": 256}},
    "no average of weights": {"train": {"ema": False}},
    "float32": {"train": {"precision": "float32"}},
}


def table(runs: list[dict]) -> list[dict]:
    """Mean and deviation of each variant of `runs`, and how its distance differs from the first variant's."""
    rows, first = [], None
    for name in dict.fromkeys(run["variant"] for run in runs):
        mine = [run for run in runs if run["variant"] == name]
        row = {"variant": name, "seeds": len(mine), "images_seen": round(statistics.mean(run["images_seen"] for run in mine))}
        for score in ("fd_digits", "accuracy"):
            values = [run[score] for run in mine]
            row |= {score: statistics.mean(values), f"{score}_sd": statistics.stdev(values) if len(values) > 1 else None}
        first = first or mine
        if mine is not first and min(len(mine), len(first)) > 1:
            distances = [[run["fd_digits"] for run in some] for some in (mine, first)]
            row["difference"] = row["fd_digits"] - rows[0]["fd_digits"]
            row["p"] = float(ttest_ind(*distances, equal_var=False).pvalue)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    asked = parser.parse_args()
    names = list(dict.fromkeys([next(iter(VARIANTS)), *asked.only]))  # the default always, to compare with
    p, data = params.load(), mnist()
    instrument, _ = classifier.load("models/classifier.safetensors")
    reference = frechet.load("reference/digits.npz", classifier.FEATURES)
    labels = drawing.choose_labels(None, data.class_counts(), p.sample.seed, IMAGES)
    runs: list[dict] = []
    for seed in range(asked.seeds):
        for name in names:
            variant = changed(p, VARIANTS[name] | {"seed": seed})
            try:
                run = trained(variant, data, asked.seconds)
            except UserError as error:
                print(f"{name}, seed {seed}: {error}", flush=True)
                continue
            images = drawing.draw(run.model, drawing.Sampler.of(variant.sample, run.model), p.sample.seed, IMAGES, labels)
            found = scores.quick(instrument, images, labels, reference)
            runs.append({"variant": name, "seed": seed, "images_seen": run.images, "seconds": run.seconds} | found)
            print(runs[-1], flush=True)
            result = {"seconds": asked.seconds, "images": IMAGES, "table": table(runs), "runs": runs} | describe("torch")
            RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
