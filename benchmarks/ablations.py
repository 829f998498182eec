"""What does each setting buy? `python -m benchmarks.ablations [--only NAME ...]`

Each variant is params.yaml with the changes in VARIANTS. All train for the same number of seconds.
Then the default sampler draws `--count` images. Fewer than 10,000 images raise every distance.
Variants take turns, seed by seed. The seed fixes both training and sampling. The committed run
has another.

`t` shows whether a difference from the default may be chance: it is the mean of the differences,
seed by seed, over its standard error. With three seeds, 5 % of differences by chance exceed 4.3
(with two seeds, 12.7).

Needs arrays/, models/classifier.safetensors and reference/ of a run on MNIST. Writes
benchmarks/results/ablations.json after each training. Rows of other variants stay, if they had as
many seconds and images.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path

from scipy.stats import ttest_rel

from benchmarks.own import Judge, changed, kept, mnist, trained
from benchmarks.tables import table
from src import drawing, params
from src.common import reports
from src.common.dataset import Dataset
from tools.machine import describe

RESULT = Path("benchmarks/results/ablations.json")
SEEDS = (10, 11, 12)
DEFAULT = "the default"
VARIANTS = {
    DEFAULT: {},
    "no margin": {"model": {"margin": 0.0}},
    "margin 0.2": {"model": {"margin": 0.2}},
    "AdamW for all": {"train": {"muon_lr": None}},
    "predicts epsilon": {"model": {"prediction": "epsilon"}},
    "predicts x0": {"model": {"prediction": "x0"}},
    "times uniform": {"train": {"times": "uniform"}},
    "times focus 0.6 0.3": {"train": {"times": "focus 0.6 0.3"}},
    "weighting min-snr 5": {"train": {"weighting": "min-snr 5"}},
    "weighting learned": {"train": {"weighting": "learned"}},
    "batches of 256": {"train": {"batch_size": 256}},
    "twice as wide, one block a level": {"model": {"base_channels": 64, "res_blocks": 1}},
    "no attention": {"model": {"attention_resolutions": []}},
    "no average": {"train": {"ema": False}},
    "shifted by up to a pixel": {"train": {"augment_shift": 1}},
}
DISTANCES = ("fd_imagenet", "fd_digits")
TESTED = (*DISTANCES, "accuracy", "broken")
MEANS = (*TESTED, "images_seen", "train_seconds")


def summary(rows: list[dict]) -> list[dict]:
    """For each variant: means, standard deviations of distances over seeds, and t of TESTED."""
    defaults = {row["seed"]: row for row in rows if row["variant"] == DEFAULT}
    lines = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == variant]
        line = {"variant": variant, "seeds": len(own)}
        line |= {name: statistics.mean(row[name] for row in own) for name in MEANS}
        if len(own) > 1:
            line |= {f"{name}_sd": statistics.stdev(r[name] for r in own) for name in DISTANCES}
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
    head = ["variant", "images seen", *(cell for name in TESTED for cell in (f"`{name}`", "t"))]
    lines = []
    for row in results["variants"]:
        name = row["variant"]
        line = [f"**{name}**" if name == DEFAULT else name, f"{row['images_seen']:,.0f}"]
        for metric in TESTED:
            t = row.get("t", {}).get(metric)
            line += [_cell(row, metric), "" if t is None else f"{t:+.1f}"]
        lines.append(line)
    return table(head, lines)


def _cell(row: dict, metric: str) -> str:
    if metric not in DISTANCES:
        return f"{100 * row[metric]:.1f} %"
    deviation = f" +- {row[f'{metric}_sd']:.1f}" if f"{metric}_sd" in row else ""
    return f"{row[metric]:.1f}{deviation}"


def measure(arguments: argparse.Namespace, data: Dataset) -> None:
    """Train and measure each variant with each seed, and write RESULT after each."""
    about, defaults, judge = describe("torch"), params.load(), Judge()
    settings = {"seconds": arguments.seconds, "count": arguments.count}
    variants = arguments.only
    rows = [row for row in kept(RESULT, settings) if row["variant"] not in variants]
    if DEFAULT not in (*variants, *(row["variant"] for row in rows)):
        variants = [DEFAULT, *variants]
    for seed in arguments.seeds:
        labels = drawing.choose_labels(None, data.class_counts(), seed, arguments.count)
        for variant in variants:
            p = changed(defaults, VARIANTS[variant] | {"seed": seed})
            run = trained(p, data, arguments.seconds)
            sampler = drawing.fitted(p.sample.sampler, run.model)
            pixels = drawing.draw(run.model, sampler, seed, arguments.count, labels)
            row = {"variant": variant, "seed": seed}
            row |= {"images_seen": run.images, "train_seconds": run.seconds}
            row |= judge.scores(pixels, labels)
            rows.append(row)
            print(row, flush=True)
            rows.sort(key=lambda row: list(VARIANTS).index(row["variant"]))
            results = settings | {"variants": summary(rows), "rows": rows} | about
            reports.write_json(RESULT, results)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--count", type=int, default=2500)
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument(
        "--table", action="store_true", help="print the committed result, as in docs/results.md"
    )
    arguments = parser.parse_args()
    if arguments.table:
        print(markdown(json.loads(RESULT.read_text())))
        return
    measure(arguments, mnist())


if __name__ == "__main__":
    main()
