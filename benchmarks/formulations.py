"""`python -m benchmarks.formulations`: choose prediction, times and sampler of each schedule.

It trains each variant for 1,500 steps with seed 10, and draws 2,500 images with each sampler, with
seed 10 too. Samplers take as many steps as 16 network evaluations allow. The settings of the
table in docs/results.md were chosen here; its own seeds are others. Needs arrays/ and models/ of a
run on MNIST. Writes benchmarks/results/formulations.json. Rows of others stay.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.own import Judge, changed, mnist, trained_for
from benchmarks.tables import table
from src import drawing, params
from src.common import reports
from src.diffusion.denoiser import Denoiser
from src.diffusion.samplers import Sampler
from tools.machine import describe

RESULT = Path("benchmarks/results/formulations.json")
SEED, COUNT, STEPS, EVALUATIONS = 10, 2500, 1500, 16
EPSILON = {"prediction": "epsilon"}
VARIANTS: dict[str, dict] = {
    "cosine": {"schedule": "cosine"},
    "flow": {"schedule": "flow"},
    "flow, times uniform": {"schedule": "flow", "train": {"times": "uniform"}},
    "flow, times logit-normal 0 1": {"schedule": "flow", "train": {"times": "logit-normal 0 1"}},
    "linear": {"schedule": "linear"},
    "linear, times focus 0.6 0.62": {"schedule": "linear", "train": {"times": "focus 0.6 0.62"}},
    "cosine, predicts epsilon": {"schedule": "cosine", "model": EPSILON},
    "linear, predicts epsilon": {"schedule": "linear", "model": EPSILON},
}
SAMPLERS = (
    "sa-solver logsnr 1",
    "sde-dpmsolver++ logsnr 1",
    "unipc logsnr",
    "heun logsnr",
    "euler trailing",
)


def fitting(name: str, settings: params.Sweep, model: Denoiser) -> Sampler:
    """The sampler with the most steps that EVALUATIONS network evaluations allow."""
    fits = (
        sampler
        for steps in range(EVALUATIONS, 2, -1)
        if (sampler := settings.sampler(name, steps)).evaluations(model) <= EVALUATIONS
    )
    return next(fits)


def markdown(result: dict) -> str:
    """The table in docs/results.md: a row per variant, a column per sampler."""
    lines = []
    cells = {(row["variant"], row["sampler"]): row for row in result["rows"]}
    for variant in VARIANTS:
        if (variant, SAMPLERS[0]) in cells:
            rows = (cells[variant, name] for name in SAMPLERS)
            texts = (
                f"{r['fd_imagenet']:.0f}; {r['fd_digits']:.1f}; {r['broken']:.1%}" for r in rows
            )
            lines.append([variant, *(text.replace("%", " %") for text in texts)])
    return table(["", *(f"`{name}`" for name in SAMPLERS)], lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--table", action="store_true", help="print the committed result")
    arguments = parser.parse_args()
    if arguments.table:
        print(markdown(json.loads(RESULT.read_text())))
        return
    data, defaults, about = mnist(), params.load(), describe("torch")
    judge = Judge()
    labels = drawing.choose_labels(None, data.class_counts(), SEED, COUNT)
    chosen = arguments.only
    rows = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    rows = [row for row in rows if row["variant"] not in chosen]
    for variant in chosen:
        changes = {"seed": SEED} | VARIANTS[variant]
        changes["train"] = {"steps": STEPS} | changes.get("train", {})
        changes["model"] = {"margin": 0.0} | changes.get("model", {})
        changes["sweep"] = {"guidance": 1.8, "autoguidance_interval": [-1.7, 0.1]}
        p = changed(defaults, changes)
        model = trained_for(p, data).model
        for name in SAMPLERS:
            sampler = fitting(name, p.sweep, model)
            pixels = drawing.draw(model, sampler, SEED, COUNT, labels)
            row = {"variant": variant, "sampler": name, "steps": sampler.steps}
            row |= judge.scores(pixels, labels)
            rows.append(row)
            print(row, flush=True)
            settings = {"train_steps": STEPS, "images": COUNT, "evaluations": EVALUATIONS}
            reports.write_json(RESULT, settings | {"rows": rows} | about)


if __name__ == "__main__":
    main()
