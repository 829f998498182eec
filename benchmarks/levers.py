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

from benchmarks.own import SA_SOLVER, Judge, changed, mnist, trained_for
from src import drawing, params
from src.common import reports
from tools.machine import describe

RESULT = Path("benchmarks/results/levers.json")
STEPS, COUNT, SEEDS, SAMPLING_SEED = 1500, 2500, (10, 11, 12), 10
BASE = "cosine"
# Changes of params.yaml for the training.
VARIANTS: dict[str, dict] = {
    BASE: {"schedule": "cosine", "model": {"margin": 0.0}},
    "cosine, margin 0.1": {"schedule": "cosine", "model": {"margin": 0.1}},
    "cosine, margin 0.2": {"schedule": "cosine", "model": {"margin": 0.2}},
    "cosine, margin 0.1, learned weighting": {
        "schedule": "cosine",
        "model": {"margin": 0.1},
        "train": {"weighting": "learned"},
    },
    "flow, margin 0.1": {"schedule": "flow", "model": {"margin": 0.1}},
    "flow, margin 0.1, times focus 0.6 0.3": {
        "schedule": "flow",
        "model": {"margin": 0.1},
        "train": {"times": "focus 0.6 0.3"},
    },
    "flow, margin 0.1, times uniform": {
        "schedule": "flow",
        "model": {"margin": 0.1},
        "train": {"times": "uniform"},
    },
}
# Changes of SA_SOLVER.
SAMPLERS: dict[str, dict] = {
    "13 steps": {},
    "26 steps": {"steps": 26},
    "26 steps, autoguidance to 3": {"steps": 26, "autoguidance_interval": (-1.7, 3.0)},
}
MEASURED = ("fd_imagenet", "fd_digits", "accuracy", "broken", "grey_0")


def summary(rows: list[dict]) -> list[dict]:
    """Means over the seeds, and t of the differences from BASE with the same sampler."""
    lines = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        for sampler in SAMPLERS:
            own = _chosen(rows, variant, sampler)
            base = _chosen(rows, BASE, sampler)
            if not own:
                continue
            line: dict = {"variant": variant, "sampler": sampler, "seeds": len(own)}
            for name in MEASURED:
                line[name] = statistics.mean(row[name] for row in own.values())
            if variant != BASE and len(own) > 1 and own.keys() == base.keys():
                pairs = [(own[seed]["fd_imagenet"], base[seed]["fd_imagenet"]) for seed in own]
                line["t"] = float(ttest_rel(*zip(*pairs, strict=True)).statistic)
            lines.append(line)
    return lines


def markdown(result: dict) -> str:
    """The table in docs/results.md: a row per variant, a column per sampler."""
    lines = [["", "seeds", *SAMPLERS], ["---"] * (2 + len(SAMPLERS))]
    cells = {(line["variant"], line["sampler"]): line for line in result["summary"]}
    for variant in VARIANTS:
        own = [cells[variant, name] for name in SAMPLERS if (variant, name) in cells]
        texts = [
            f"{c['fd_imagenet']:.1f}; {c['fd_digits']:.1f}; {100 * c['accuracy']:.1f} %; "
            f"{100 * c['grey_0']:.0f} %"
            for c in own
        ]
        if own:
            lines.append([variant, str(own[0]["seeds"]), *texts])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _chosen(rows: list[dict], variant: str, sampler: str) -> dict[int, dict]:
    return {r["seed"]: r for r in rows if (r["variant"], r["sampler"]) == (variant, sampler)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--table", action="store_true", help="print the committed result")
    arguments = parser.parse_args()
    if arguments.table:
        print(markdown(json.loads(RESULT.read_text())))
        return
    data, defaults, about = mnist(), params.load(), describe("torch")
    judge = Judge()
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
                sampler = replace(SA_SOLVER, **settings)
                pixels = drawing.draw(model, sampler, SAMPLING_SEED, COUNT, labels)
                row = {"variant": variant, "sampler": name, "seed": seed}
                row |= judge.scores(pixels, labels)
                rows.append(row)
                print(row, flush=True)
            result = {"train_steps": STEPS, "images": COUNT, "summary": summary(rows)}
            reports.write_json(RESULT, result | {"rows": rows} | about)


if __name__ == "__main__":
    main()
