"""`python -m benchmarks.ablations [--seconds 60] [--seeds 3] [--count 2500] [--only NAME ...]`: what choices of training buy.

Each variant is params.yaml with what VARIANTS says, trained for as many seconds, however many steps that makes; then the sampler
of params.yaml, which was chosen for the default, draws `--count` images: fewer than 10,000 raise every distance. They take turns,
seed by seed; a seed is that of training and of sampling. Of each: images seen, fd_digits, accuracy, share of images in pieces,
held-out loss (to be compared only where schedule and prediction are the default's; its noise is always the same).

How far a difference from the default is to be believed: `t` is the mean of the differences, seed by seed, over its standard
error. At three seeds 5 % of differences by chance are beyond 4.3 (at two, beyond 12.7), and there are 33 to look at.

Needs arrays/, models/classifier.safetensors and reference/ of a run on MNIST. Writes benchmarks/results/ablations.json anew after
each training: what is in there is of one call.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path

from scipy.stats import ttest_rel

from benchmarks.machine import describe
from benchmarks.own import changed, mnist, trained
from src import classifier, drawing, frechet, params
from src.common import reports
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
    """By variant: means, the deviation over seeds of the distance, and how much it differs from the default, seed by seed."""
    defaults, found = {row["seed"]: row for row in rows if row["variant"] == DEFAULT}, []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        mine = [row for row in rows if row["variant"] == variant]
        names = ("fd_digits", "accuracy", "broken", "heldout_loss", "images_seen", "train_seconds")
        line = {"variant": variant, "seeds": len(mine)} | {name: statistics.mean(row[name] for row in mine) for name in names}
        if len(mine) > 1:
            line["fd_digits_sd"] = statistics.stdev(row["fd_digits"] for row in mine)
        if len(mine) > 1 and variant != DEFAULT:
            t = {
                name: float(ttest_rel([row[name] for row in mine], [defaults[row["seed"]][name] for row in mine]).statistic)
                for name in ("fd_digits", "accuracy", "broken")
            }
            line["t"] = {name: value for name, value in t.items() if math.isfinite(value)}  # it is not where all differ alike
        found.append(line)
    return found


def markdown(found: dict) -> str:
    """The table of docs/ablations.md."""
    lines = [["variant", "images seen", "distance", "t", "accuracy", "t", "in pieces", "t", "held-out loss"], ["---"] * 9]
    for line in found["variants"]:
        t = {name: f"{value:+.1f}" for name, value in line.get("t", {}).items()}
        lines.append([
            f"**{DEFAULT}**" if line["variant"] == DEFAULT else line["variant"], f"{line['images_seen']:,.0f}",
            f"{line['fd_digits']:.1f}" + (f" +- {line['fd_digits_sd']:.1f}" if "fd_digits_sd" in line else ""),
            t.get("fd_digits", ""), f"{line['accuracy']:.1%}".replace("%", " %"), t.get("accuracy", ""),
            f"{line['broken']:.1%}".replace("%", " %"), t.get("broken", ""), f"{line['heldout_loss']:.4f}",
        ])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--count", type=int, default=2500)
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--table", action="store_true", help="print the committed result as docs/ablations.md has it")
    asked = parser.parse_args()
    if asked.table:
        print(markdown(json.loads(RESULT.read_text())))
        return
    variants = [DEFAULT, *(name for name in asked.only if name != DEFAULT)]
    about, data, defaults = describe("torch"), mnist(), params.load()
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
            found = {"seconds": asked.seconds, "count": asked.count, "variants": summary(rows), "rows": rows} | about
            reports.write_json(RESULT, found)


if __name__ == "__main__":
    main()
