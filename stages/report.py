"""Write report/report.html: one page with the parameters, the results and the pictures."""

from __future__ import annotations

from pathlib import Path

from src import provenance
from src.common import yaml12
from src.common.files import replacing
from src.show import page
from src.show.results import about_run, check_metrics, compared_experiments

METRICS: dict[str, type] = {
    "metrics/bound.json": provenance.Described,
    "metrics/classifier.json": provenance.Described,
    "metrics/data.json": provenance.DataMetrics,
    "metrics/fid.json": provenance.FidMetrics,
    "metrics/fidelity.json": provenance.FidelityMetrics,
    "metrics/quality.json": provenance.QualityMetrics,
    "metrics/spread.json": provenance.SpreadMetrics,
    "metrics/sweep.json": provenance.SweepMetrics,
    "metrics/train.json": provenance.TrainMetrics,
}


def main() -> None:
    metrics: dict[str, dict] = {
        Path(path).stem: provenance.read(path, kind) for path, kind in METRICS.items()
    }
    check_metrics(metrics)
    images = metrics["fid"]["images"]
    parameters = yaml12.load(Path("params.yaml").read_text(encoding="utf-8"))
    html = page.render(
        title=f"Image generation with diffusion: {metrics['data']['dataset']}",
        lead=f"{images:,} images from a model that was trained from scratch, measured beside real "
        f"ones.",
        run=about_run(metrics),
        metrics=metrics,
        figures=Path("figures"),
        parameters=parameters,
        experiments=compared_experiments(),
    )
    with replacing("report/report.html") as temporary:
        temporary.write_text(html, encoding="utf-8")
