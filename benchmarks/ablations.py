"""Compare variants of the training.

    python -m benchmarks.ablations [--seconds 60] [--seeds 3] [--count 2500] [--only NAME ...]

Each variant is params.yaml with the changes in VARIANTS. All train for the same number of seconds.
Then the sampler of params.yaml, which was chosen for the default, draws `--count` images. Fewer
than 10,000 images raise every distance. Variants take turns, seed by seed. The seed fixes both
training and sampling.

The results are images seen, fd_digits, accuracy, share of broken strokes, and held-out loss. The
noise of the held-out loss is the same for all. The loss can only compare variants with the
default's schedule and prediction.

`t` shows whether a difference from the default may be chance: it is the mean of the differences,
seed by seed, over its standard error. With three seeds, 5 % of differences by chance exceed 4.3
(with two seeds, 12.7). There are 33 differences.

Needs arrays/, models/classifier.safetensors and reference/ of a run on MNIST. Writes
benchmarks/results/ablations.json after each training, with the results of this call only.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path

from scipy.stats import ttest_rel

from benchmarks.own import changed, mnist, trained
from src import classifier, drawing, params
from src.common import reports
from src.common.dataset import Dataset
from src.measure import frechet, scores, strokes
from src.training.heldout import loss_by_noise_level
from tools.machine import describe

RESULT = Path("benchmarks/results/ablations.json")
DEFAULT = "the default"
VARIANTS = {
    DEFAULT: {},
    "AdamW for all": {"train": {"muon_lr": None}},
    "predicts noise": {"model": {"prediction": "epsilon"}},
    "predicts images": {"model": {"prediction": "x0"}},
    # Its `auto` times are the same timesteps, but here they have other noise levels.
    "linear schedule": {"schedule": "linear"},
    "noise levels alike": {"train": {"times": "uniform"}},
    "batches of 64": {"train": {"batch_size": 64}},
    "batches of 256": {"train": {"batch_size": 256}},
    "twice as wide, one block a level": {"model": {"base_channels": 64, "res_blocks": 1}},
    "no attention": {"model": {"attention_resolutions": []}},
    "no average": {"train": {"ema": False}},
    "shifted by up to a pixel": {"train": {"augment_shift": 1}},
}
MEANS = ("fd_digits", "accuracy", "broken", "heldout_loss", "images_seen", "train_seconds")
TESTED = ("fd_digits", "accuracy", "broken")


def summary(rows: list[dict]) -> list[dict]:
    """For each variant: means, the standard deviation of fd_digits over seeds, and t of TESTED."""
    defaults = {row["seed"]: row for row in rows if row["variant"] == DEFAULT}
    lines = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == variant]
        line = {"variant": variant, "seeds": len(own)}
        line |= {name: statistics.mean(row[name] for row in own) for name in MEANS}
        if len(own) > 1:
            line["fd_digits_sd"] = statistics.stdev(row["fd_digits"] for row in own)
        if len(own) > 1 and variant != DEFAULT:
            t = {name: paired_t(own, defaults, name) for name in TESTED}
            # t is not finite if all seeds differ by the same amount.
            line["t"] = {name: value for name, value in t.items() if math.isfinite(value)}
        lines.append(line)
    return lines


def paired_t(rows: list[dict], defaults: dict[int, dict], name: str) -> float:
    """t of the differences between `rows` and the default's rows with the same seeds."""
    values = [row[name] for row in rows]
    default_values = [defaults[row["seed"]][name] for row in rows]
    return float(ttest_rel(values, default_values).statistic)


def markdown(results: dict) -> str:
    """The table in docs/results.md."""
    head = ["variant", "images seen", "distance", "t", "accuracy", "t", "in pieces", "t"]
    lines = [[*head, "held-out loss"], ["---"] * 9]
    for row in results["variants"]:
        t = {name: f"{value:+.1f}" for name, value in row.get("t", {}).items()}
        deviation = f" +- {row['fd_digits_sd']:.1f}" if "fd_digits_sd" in row else ""
        lines.append(
            [
                f"**{DEFAULT}**" if row["variant"] == DEFAULT else row["variant"],
                f"{row['images_seen']:,.0f}",
                f"{row['fd_digits']:.1f}{deviation}",
                t.get("fd_digits", ""),
                f"{row['accuracy']:.1%}".replace("%", " %"),
                t.get("accuracy", ""),
                f"{row['broken']:.1%}".replace("%", " %"),
                t.get("broken", ""),
                f"{row['heldout_loss']:.4f}",
            ]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def measure(arguments: argparse.Namespace, variants: list[str], data: Dataset) -> None:
    """Train and measure each variant with each seed, and write RESULT after each."""
    about, defaults = describe("torch"), params.load()
    instrument, _ = classifier.load("models/classifier.safetensors")
    reference = frechet.load("reference/digits.npz", classifier.FEATURES)
    rows: list[dict] = []
    for seed in range(arguments.seeds):
        labels = drawing.choose_labels(None, data.class_counts(), seed, arguments.count)
        for variant in variants:
            p = changed(defaults, VARIANTS[variant] | {"seed": seed})
            run = trained(p, data, arguments.seconds)
            loss = loss_by_noise_level(run.model, data.heldout_images, data.heldout_labels, seed=0)
            sampler = drawing.fitted(p.sample.sampler, run.model)
            pixels = drawing.draw(run.model, sampler, seed, arguments.count, labels)
            row = {"variant": variant, "seed": seed}
            row |= {"images_seen": run.images, "train_seconds": run.seconds}
            row |= scores.quick(instrument, pixels, labels, reference)
            row |= {"broken": strokes.broken(pixels), "heldout_loss": float(loss.mean())}
            rows.append(row)
            print(row, flush=True)
            settings = {"seconds": arguments.seconds, "count": arguments.count}
            results = settings | {"variants": summary(rows), "rows": rows} | about
            reports.write_json(RESULT, results)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--count", type=int, default=2500)
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument(
        "--table", action="store_true", help="print the committed result, as in docs/results.md"
    )
    arguments = parser.parse_args()
    if arguments.table:
        print(markdown(json.loads(RESULT.read_text())))
        return
    variants = [DEFAULT, *(name for name in arguments.only if name != DEFAULT)]
    measure(arguments, variants, mnist())


if __name__ == "__main__":
    main()
