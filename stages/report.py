"""Write report/report.html: one page with the parameters, the results and the pictures."""

from __future__ import annotations

from pathlib import Path

import yaml

from src import provenance
from src.common.files import replacing
from src.show import page
from src.show.results import about_run, check_metrics, compared_experiments

METRICS = (
    "metrics/bound.json",
    "metrics/classifier.json",
    "metrics/data.json",
    "metrics/fid.json",
    "metrics/quality.json",
    "metrics/spread.json",
    "metrics/sweep.json",
    "metrics/train.json",
)


def main() -> None:
    keys = ("dataset", "dataset_fingerprint")
    metrics = {Path(path).stem: provenance.read(path, keys) for path in METRICS}
    check_metrics(metrics)
    images = metrics["fid"]["images"]
    html = page.render(
        title=f"Image generation with diffusion: {metrics['data']['dataset']}",
        lead=f"{images:,} images from a model that was trained from scratch, measured beside real "
        f"ones.",
        run=about_run(metrics),
        metrics=metrics,
        figures=Path("figures"),
        parameters=yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8")),
        experiments=compared_experiments(),
    )
    with replacing("report/report.html") as temporary:
        temporary.write_text(html, encoding="utf-8")
