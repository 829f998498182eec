"""`python -m benchmarks.ablations [--seconds 60] [--seeds 3] [--count 2500] [--only NAME ...]`: what choices of training buy.

Each variant is params.yaml with what VARIANTS says, trained for as many seconds, however many steps that makes; then the sampler
of params.yaml, which was chosen for the default, draws `--count` images: fewer than 10,000 raise every distance. They take turns,
seed by seed; a seed is that of training and of sampling. Of each: images seen, fd_digits, accuracy, share of images in pieces,
held-out loss (to be compared only where schedule and prediction are the default's; its noise is always the same).

How far a difference from the default is to be believed: `t` is the mean of the differences, seed by seed, over its standard
error. At three seeds 5 % of differences by chance are beyond 4.3 (at two, beyond 12.7), and there are eleven to look at.

Needs arrays/, models/classifier.safetensors and reference/ of a run on MNIST. Writes benchmarks/results/ablations.json anew after
each training: what is in there is of one call.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from scipy.stats import ttest_rel

from benchmarks.machine import describe
from benchmarks.own import changed, mnist, trained
from src import classifier, drawing, frechet, params
from src.quality import scores, strokes
from src.training.trainer import loss_by_noise_level

RESULT = Path("benchmarks/results/ablations.json")
DEFAULT = "the default"
VARIANTS = {
    DEFAULT: {},
    "AdamW for all": {"train": {"muon_lr": None}},
    "predicts noise": {"model": {"prediction": "epsilon"}},
    "predicts images": {"model": {"prediction": "x0"}},
    "linear schedule": {"schedule": "linear"},  # its focus lies at the same timesteps, which is another noise level
    "noise levels alike": {"train": {"focus": 0.0}},
    "batches of 64": {"train": {"batch_size": 64}},
    "batches of 256": {"train": {"batch_size": 256}},
    "twice as wide, one block a level": {"model": {"base_channels": 64, "res_blocks": 1}},
    "no attention": {"model": {"attention_resolutions": []}},
    "no average": {"train": {"ema": False}},
    "shifted by up to a pixel": {"train": {"augment_shift": 1}},
}


def summary(rows: list[dict]) -> list[dict]:
    """By variant: means, deviation over seeds of the distance, and how it differs from the default's, seed by seed."""
    defaults, found = {row["seed"]: row["fd_digits"] for row in rows if row["variant"] == DEFAULT}, []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        mine = [row for row in rows if row["variant"] == variant]
        names = ("fd_digits", "accuracy", "broken", "heldout_loss", "images_seen", "train_seconds")
        line = {"variant": variant, "seeds": len(mine)} | {name: statistics.mean(row[name] for row in mine) for name in names}
        if len(mine) > 1:
            distances, beside = [row["fd_digits"] for row in mine], [defaults[row["seed"]] for row in mine]
            line["fd_digits_sd"] = statistics.stdev(distances)
            if variant != DEFAULT:
                line["more"] = statistics.mean(distances) - statistics.mean(beside)
                line["t"] = float(ttest_rel(distances, beside).statistic)
        found.append(line)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--count", type=int, default=2500)
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    asked = parser.parse_args()
    variants = [DEFAULT, *(name for name in asked.only if name != DEFAULT)]
    data, defaults = mnist(), params.load()
    instrument, _ = classifier.load("models/classifier.safetensors")
    reference = frechet.load("reference/digits.npz", classifier.FEATURES)
    rows: list[dict] = []
    for seed in range(asked.seeds):
        labels = drawing.choose_labels(None, data.class_counts(), seed, asked.count)
        for variant in variants:
            p = changed(defaults, VARIANTS[variant] | {"seed": seed})
            run = trained(p, data, asked.seconds)
            loss = loss_by_noise_level(run.model, data.heldout_images, data.heldout_labels, seed=0)
            pixels = drawing.draw(run.model, drawing.Sampler.of(p.sample, run.model), seed, asked.count, labels)
            rows.append(
                {"variant": variant, "seed": seed, "images_seen": run.images, "train_seconds": run.seconds}
                | scores.quick(instrument, pixels, labels, reference)
                | {"broken": strokes.broken(pixels), "heldout_loss": float(loss.mean())}
            )
            print(rows[-1], flush=True)
            found = {"seconds": asked.seconds, "count": asked.count, "variants": summary(rows), "rows": rows} | describe("torch")
            RESULT.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
