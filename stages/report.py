"""Put together one page of what was run, what came out, and the pictures: report/report.html."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import torch
import yaml

from src import page, provenance
from src.common import device
from src.common.files import replacing
from tools import experiments

METRICS = (
    "metrics/bound.json", "metrics/classifier.json", "metrics/data.json", "metrics/fid.json", "metrics/quality.json",
    "metrics/spread.json", "metrics/sweep.json", "metrics/train.json",
)


def main() -> None:
    metrics = {Path(path).stem: provenance.read(path, ("dataset", "dataset_fingerprint")) for path in METRICS}
    data = metrics["data"]
    for name, found in metrics.items():
        provenance.expect(f"metrics/{name}.json, its data set", found["dataset_fingerprint"], data["dataset_fingerprint"])
        for key in ("pixels", "model"):
            if key in found:
                provenance.expect(f"metrics/{name}.json, its {key}", found[key], metrics["fid"].get(key))
    parameters = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    shape = f"{data['image_size']}x{data['image_size']}, {'RGB' if data['channels'] == 3 else 'grey'}"
    run = [
        ("data", f"{data['dataset']} ({data['dataset_fingerprint']}): {data['train_images']:,} training and "
                 f"{data['heldout_images']:,} held-out images, {shape}, {data['classes'] or 'no'} classes"),
        ("model", f"{metrics['fid']['model']}: {metrics['train']['parameters']:,} parameters, {metrics['train']['steps']:,} "
                  f"steps, computed in {metrics['train']['precision']}"),
        ("images", f"{metrics['fid']['images']:,}, pixels {metrics['fid']['pixels']}"),
        ("revision", revision()),
        ("DVC", dvc_revision()),
        ("this page was made on", machine()),
    ]
    found = experiments.table()
    columns = [name for name in found.columns if found[name].notna().any()]
    numbers = set(experiments.headings(experiments.METRICS).values())
    compared = {
        "columns": columns, "rows": [list(map(experiments.shown, row)) for row in found[columns].itertuples(index=False)],
        "parameters": sum(name not in numbers for name in columns),
    } if len(found) else None
    title = f"Image generation with diffusion: {data['dataset']}"
    lead = f"{metrics['fid']['images']:,} images from a model that was trained from scratch, measured beside real ones."
    with replacing("report/report.html") as temporary:
        html = page.render(title, lead, run, metrics, Path("figures"), parameters, compared)
        temporary.write_text(html, encoding="utf-8")


def revision() -> str:
    """The commit that the code is of, and which files of code and parameters differ from it."""
    commit = experiments.git("rev-parse", "--short=12", "HEAD").strip()
    if not commit:
        return "not in a git repository"
    paths = ("src", "stages", "tools", "dvc.yaml", "params.yaml", "constraints.txt")
    changed = experiments.git("status", "--porcelain", "--", *paths).splitlines()
    return f"git {commit}" + (f", but for {', '.join(sorted(line[3:] for line in changed))}" if changed else "")


def dvc_revision() -> str:
    """DVC's version, its pin of the data (no dependency: DVC takes no pins for one), and the experiment that this is part of."""
    pin = yaml.safe_load(Path("data.dvc").read_text(encoding="utf-8"))["outs"][0]["md5"]
    experiment = os.environ.get("DVC_EXP_NAME")
    return f"{metadata.version('dvc')}, data pinned as {pin}" + (f", experiment {experiment}" if experiment else "")


def machine() -> str:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{device.processor()}, {os.cpu_count()} cores, {gpu}, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )
